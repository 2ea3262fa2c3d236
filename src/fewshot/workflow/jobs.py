"""The work of each job: takes its inputs from the plan, calls the stage and publishes the files."""

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fewshot import paths
from fewshot.datasets import DATASETS
from fewshot.datasets.prepare import build_store, download, draw_contact_sheet
from fewshot.datasets.store import Store
from fewshot.digests import save_digests
from fewshot.episodes.draw import EpisodeIndices, draw_episodes
from fewshot.episodes.frozen import episodes_hash, read_episodes, write_episodes
from fewshot.errors import CheckpointError, DataError, ParamsError
from fewshot.evaluation.evaluate import evaluate, evaluation_record, load_learners, write_evaluation
from fewshot.experiments.build import initial_learner
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.fits import check_draws
from fewshot.files import read_json, write_json
from fewshot.progress import reported_in, say
from fewshot.settings import Settings
from fewshot.sharing.episode_lists import check_episode_list, read_episode_list, write_episode_list
from fewshot.sharing.export import export
from fewshot.training import devices
from fewshot.training.launch import train_on_devices
from fewshot.training.memory import memory_errors
from fewshot.training.parallel import ProcessGroup
from fewshot.training.state import Checkpoints
from fewshot.training.tensorboard import check_installed
from fewshot.training.train import train
from fewshot.weights.foreign import load_foreign_weights
from fewshot.workflow.plan import Plan
from fewshot.workflow.planned_jobs import EpisodeList, EvaluateJob, PrepareJob, TrainJob
from fewshot.workflow.results import HASHES, remake_command, require_result, restore_result, run_job


def dataset_settings(job: PrepareJob) -> Settings:
    """Return the typed settings of a job's data set."""
    return DATASETS[job.dataset.name].typed(job.dataset.settings, where=f"prepare.{job.name}")


def download_job(job: PrepareJob) -> None:
    """Download the raw files of a data set and record them."""
    files = download(job.dataset.name, dataset_settings(job), job.raw_dir)
    record = {"dataset": job.dataset.name, "files": {str(file): file.stat().st_size for file in files}}
    job.download_record.parent.mkdir(parents=True, exist_ok=True)
    write_json(job.download_record, record)


def open_prepared(job: PrepareJob) -> Store:
    """Open the store of a data set, after rebuilding missing or damaged arrays.

    Raises:
        DataError: if a rebuilt store differs from the one that the recorded manifest describes.
    """
    store = build_store(job.dataset.name, dataset_settings(job), job.raw_dir, job.store_dir)
    save_digests()
    manifest = job.outputs["manifest"]
    lost = restore_result(job)
    if manifest.exists() and not {manifest.name, HASHES} & set(lost):
        recorded = read_json(manifest)["content_hash"]
        if recorded != store.content_hash:
            raise DataError(
                f"{job.store_dir}: the content ({store.content_hash[:12]}) differs from the one recorded in {manifest} "
                f"({recorded[:12]}): the raw files or package versions have changed; to use the new data, delete "
                f"{job.dir} and {job.cache_dir}, then rerun"
            )
    return store


def prepare_job(job: PrepareJob) -> str:
    """Build the store, then publish its manifest, the frozen episode lists and a contact sheet.

    Raises:
        DataError: if the suite draws more classes, or images of a class, than there are.
    """
    with reported_in(job.progress_file):
        store = open_prepared(job)
    check_draws(job.name, store, job.draws)

    def work(out: Path, _: Path) -> None:
        hashes = {}
        for wanted in job.lists:
            split = store.split(wanted.split)
            indices = np.arange(wanted.episodes)
            episodes = draw_episodes(wanted.seed, wanted.split, indices, wanted.form, split.class_sizes)
            write_episodes(out / wanted.file_name, episodes)
            hashes[wanted.file_name] = episodes_hash(episodes)
        draw_contact_sheet(store, out / "contact_sheet.png")
        facts = {name: {"classes": len(s.class_sizes), "images": len(s)} for name, s in store.splits.items()}
        record = {
            "dataset": job.dataset.name,
            "data_key": job.data_key,
            "content_hash": store.content_hash,
            "image_shape": list(store.image_shape),
            "splits": facts,
            "duplicates": store.record.get("duplicates"),
            "provenance": store.record.get("provenance"),
            "episode_lists": hashes,
        }
        write_json(out / "manifest.json", record)

    return run_job(job, work)


def export_episodes(job: PrepareJob, file: Path) -> str:
    """Write the frozen test episodes of a data set for other programs; return a summary."""
    prepare_job(job)
    wanted, store = _tested_list(job), open_prepared(job)
    episodes = frozen_episodes(job, wanted)
    split = store.split(wanted.split)
    write_episode_list(file, episodes, split, dataset=job.name, content_hash=store.content_hash)
    return f"{file}: {wanted.episodes} episodes of {job.name} {wanted.split}, episodes_hash {episodes_hash(episodes)}"


def check_episodes(job: PrepareJob, file: Path) -> str:
    """Check that an episode file is intact and matches the prepared data; return whether it is the suite's frozen list.

    Raises:
        DataError: if it is damaged or was drawn from different data.
    """
    prepare_job(job)
    wanted, store = _tested_list(job), open_prepared(job)
    listed = read_episode_list(file)
    check_episode_list(listed, store.split(wanted.split), store.content_hash)
    same = listed.header.episodes_hash == episodes_hash(frozen_episodes(job, wanted))
    which = "the frozen list of this suite" if same else "not the frozen list of this suite"
    return f"{file}: intact, matches {job.name}; {listed.header.episodes} episodes, {which}"


def _tested_list(job: PrepareJob) -> EpisodeList:
    """Return the frozen list of a data set; a suite has one for each data set it tests on."""
    if not job.lists:
        raise ParamsError(f"this suite tests nothing on {job.name}, so it has no frozen test episodes")
    return job.lists[0]


def train_job(job: TrainJob, plan: Plan) -> str:
    """Train one experiment."""
    runtime = plan.params.train
    curves = None
    if runtime.tensorboard:
        check_installed()
        curves = paths.curves_dir(job.name, job.key)
    require_result(job.prepare, suite=plan.suite, reads=[job.prepare.outputs["manifest"].name])
    start = None if job.init is None else _start(job.init, plan)
    store = open_prepared(job.prepare)

    def work(out: Path, checkpoints: Path) -> None:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        devices.limit_threads(runtime.threads)
        claimed, lock = devices.claim_devices(runtime.device, job.devices, runtime.jobs_per_gpu)
        saved = Checkpoints(checkpoints, runtime.checkpoint_seconds)
        if job.devices == 1:
            facts = train(job.experiment, store, out, saved, ProcessGroup(device=claimed[0]), start, curves)
        else:
            facts = train_on_devices(
                job.experiment, store, out, saved, claimed, threads=runtime.threads, start=start, curves=curves
            )
        record = {
            "key": job.key,
            "train": job.settings,
            "data_hash": store.content_hash,
            **({} if job.init is None else {"starts_from": job.init.key}),
            "started": started,
            "machine": devices.describe(claimed[0]),
            **facts,
        }
        write_json(out / "run.json", record)
        del lock

    return run_job(job, work)


def _start(init: TrainJob, plan: Plan) -> Path:
    """Return the weights of the training that another one starts from.

    Raises:
        CheckpointError: if it is not trained yet; names the command that trains it.
    """
    require_result(init, suite=plan.suite)
    if not init.outputs["weights"].exists():
        raise CheckpointError(f"{init.name} must be trained first; run: {remake_command(init, plan.suite)}")
    return init.outputs["weights"]


def frozen_episodes(job: PrepareJob, wanted: EpisodeList) -> EpisodeIndices:
    """Return the episodes of a frozen list.

    Raises:
        DataError: if it is not the list that the manifest of the data set describes.
    """
    lists = read_json(job.outputs["manifest"])["episode_lists"]
    return read_episodes(
        job.dir / wanted.file_name,
        n_shot=wanted.form.n_shot,
        episodes=wanted.episodes,
        recorded_hash=lists[wanted.file_name],
    )


def evaluate_weights(job: EvaluateJob, plan: Plan, weights: Path) -> str:
    """Return, as text, the accuracies of an experiment with external weights instead of its own."""
    prepare_job(job.prepare)
    experiment = job.experiment
    devices.limit_threads(plan.params.train.threads)
    device, lock = devices.claim_device(plan.params.train.device, plan.params.train.jobs_per_gpu)
    learner = initial_learner(experiment)
    load_foreign_weights(weights, learner)
    learner = learner.for_evaluation(experiment.changes)
    split = open_prepared(job.prepare).split(job.settings["split"])
    episodes = frozen_episodes(job.prepare, job.episodes)
    rows, _ = evaluate(experiment, {"single": [learner.to(device)]}, split, episodes, device)
    del lock
    return "\n".join(
        f"{job.target} {row['shot']}-shot: {100 * row['accuracy']:.2f} +- {100 * row['ci95']:.2f} %" for row in rows
    )


def export_job(experiment: Experiment, plan: Plan, out: Path, key: str | None = None) -> None:
    """Write weights, settings and model card of a trained experiment.

    Args:
        experiment: one of the plan.
        plan: of its suite.
        out: folder to write.
        key: of the training, if the plan must still give it this one.

    Raises:
        CheckpointError: if it is not trained yet.
        ParamsError: if the training has another key.
        FewshotError: if the folder cannot be written.
    """
    job: TrainJob = plan.find("train", experiment.name, key)
    weights = trained_weights(job, experiment, plan)
    finished = [evaluation for evaluation in plan.of_experiment(experiment.name) if evaluation.outputs["json"].exists()]
    for read in (job, *finished):
        require_result(read, suite=plan.suite)
    export(
        experiment,
        weights,
        out,
        train_key=job.key,
        data_hash=read_json(job.outputs["run"])["data_hash"],
        evaluations=[read_json(evaluation.outputs["json"]) for evaluation in finished],
    )


def trained_weights(job: TrainJob, experiment: Experiment, plan: Plan) -> Path:
    """Return the weights file of a finished training.

    Raises:
        CheckpointError: if there is none.
    """
    restore_result(job)
    weights = job.outputs["weights"]
    if not weights.exists():
        suite = "" if plan.suite == plan.params.suite else f" --config suite={plan.suite}"
        raise CheckpointError(
            f"{experiment.name} is not trained yet; run: snakemake --cores 1 {experiment.name}{suite}"
        )
    return weights


def evaluate_job(job: EvaluateJob, plan: Plan) -> str:
    """Evaluate one trained model on one target, at all shots."""
    runtime, experiment = plan.params.train, job.experiment
    for read in (job.prepare, job.train):
        require_result(read, suite=plan.suite)
    store = open_prepared(job.prepare)
    split = store.split(job.settings["split"])
    episodes = frozen_episodes(job.prepare, job.episodes)

    def work(out: Path, _: Path) -> None:
        started = time.monotonic()
        trained_weights(job.train, experiment, plan)
        devices.limit_threads(runtime.threads)
        device, lock = devices.claim_device(runtime.device, runtime.jobs_per_gpu)
        with memory_errors(experiment, evaluating=True):
            learners = load_learners(experiment, job.train.dir, device)
            rows, arrays = evaluate(experiment, learners, split, episodes, device)
        record = evaluation_record(
            experiment,
            key=job.key,
            train_key=job.train.key,
            settings=job.settings,
            data_hash=store.content_hash,
            episodes=episodes,
            batch_norm=learners["single"][0].batch_norm,
            rows=rows,
            versions=devices.recorded_versions(),
        )
        write_evaluation(out, job.target, record, arrays)
        say(f"{job.name} on {job.target}: {time.monotonic() - started:.0f} s")
        del lock

    return run_job(job, work)
