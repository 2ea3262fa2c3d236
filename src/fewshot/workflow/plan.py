"""Experiments -> jobs with keys and paths. The Snakefile, the command line and the tests all use this module.

A key is the digest of a job's identity: everything that determines its result. It is part of the path, so "up to date"
means "the file exists". Names are labels, and no key depends on them: experiments of a suite with the same training
share one job, under the name of the first. Importing this module or planning writes nothing and imports neither torch
nor pandas.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fewshot import paths
from fewshot.backbones import BACKBONES
from fewshot.datasets import DATASETS
from fewshot.digests import digest, path_digest
from fewshot.errors import MAX_PROBLEMS, DataError, ParamsError, Problems, did_you_mean, quoted
from fewshot.experiments.experiment import Choice, Draw, Experiment
from fewshot.experiments.matrix import check_other_suites, check_suite_name, suite_experiments
from fewshot.experiments.params import Params, Train
from fewshot.experiments.reader import PARAMS_FILE, read_files
from fewshot.learners import LEARNERS
from fewshot.paths import PACKAGE_DIR
from fewshot.workflow.identity import module_digests, package_versions
from fewshot.workflow.planned_jobs import EpisodeList, EvaluateJob, Identity, Job, PrepareJob, TrainJob

REPORT_DIR = PACKAGE_DIR / "report"
REPORT_TEXTS = (".yaml", ".npz", ".css", ".js", ".jinja")

# The common code of each stage; the registries add the modules of the components a job uses.
STAGE_MODULES = {
    "prepare": ("fewshot.datasets.store",),
    "lists": ("fewshot.episodes.frozen",),
    "train": ("fewshot.training.train",),
    "evaluate": ("fewshot.evaluation.evaluate",),
    "report": ("fewshot.report.build",),
}


@dataclass(frozen=True)
class Plan:
    """All jobs of one suite; `results` is the root folder of their results.

    Attributes:
        train: the trainings, each once.
        evaluate: the evaluations, by experiment in the order of the suite.
    """

    params: Params
    suite: str
    results: Path
    prepare: tuple[PrepareJob, ...]
    train: tuple[TrainJob, ...]
    evaluate: tuple[EvaluateJob, ...]

    @cached_property
    def experiments(self) -> tuple[Experiment, ...]:
        """The experiments in the order of the suite; several may share a training."""
        return tuple({job.name: job.experiment for job in self.evaluate}.values())

    @cached_property
    def report_key(self) -> str:
        """Key of the suite's tables."""
        report = self.params.report.model_dump(mode="json")
        names = [[job.name, job.target, job.key] for job in self.evaluate]
        # Published and expected numbers, and the text of the page, are files next to the code.
        texts = {file.name: path_digest(file) for file in sorted(REPORT_DIR.iterdir()) if file.suffix in REPORT_TEXTS}
        return digest(["report", self.suite, report, names, texts, module_digests(STAGE_MODULES["report"])])

    @property
    def tables_dir(self) -> Path:
        """Folder of the suite's tables."""
        return self.results / "tables" / self.suite

    def jobs(self, stage: str) -> tuple[Job, ...]:
        """Return the jobs of a stage: prepare, train or evaluate."""
        jobs: dict[str, tuple[Job, ...]] = {"prepare": self.prepare, "train": self.train, "evaluate": self.evaluate}
        return jobs[stage]

    @cached_property
    def _by_name(self) -> dict[str, dict[str, list[Any]]]:
        """Stage -> name -> jobs; Snakemake looks each job up several times.

        A training is found by its own name and by those of its experiments, which come first.
        """
        found: dict[str, dict[str, list[Any]]] = {stage: {} for stage in paths.JOB_STAGES}
        for job in self.evaluate:
            found["train"][job.name] = [job.train]
        for stage, by_name in found.items():
            for planned in self.jobs(stage):
                named = by_name.setdefault(planned.name, [])
                if planned.key not in [job.key for job in named]:
                    named.append(planned)
        return found

    def find(self, stage: str, name: str, key: str | None = None, target: str | None = None) -> Any:
        """Return the one job of a stage with this name (and key and target, where given).

        Raises:
            ParamsError: if there is none, or it has a different key (the settings have changed since).
        """
        named = [job for job in self._by_name[stage].get(name, ()) if target in (None, getattr(job, "target", None))]
        if not named:
            of_target = f" on {quoted(target)}" if target else ""
            raise ParamsError(
                f"suite {quoted(self.suite)} has no {stage} job {quoted(name)}{of_target};{self._closest(stage, name)} "
                f"'fewshot list --suite {self.suite}' lists them all"
            )
        found = [job for job in named if key in (None, job.key)]
        if not found:
            raise ParamsError(
                f"the {stage} job {name} now has key {named[0].key}, not {key}: params.yaml or the code has changed "
                "since this job was planned; rerun snakemake"
            )
        return found[0]

    def experiment(self, name: str) -> Experiment:
        """Return the experiment of this name, or the first that uses the training of this name.

        Raises:
            ParamsError: if there is none.
        """
        job: TrainJob = self.find("train", name)
        return next((experiment for experiment in self.experiments if experiment.name == name), job.experiment)

    def _closest(self, stage: str, name: str) -> str:
        """Return ' Did you mean X?', or the suites that have an experiment of this name, or ''."""
        suites = self.suites_with(name)
        if suites:
            return f" it is in {' and '.join(suites)}: add --suite {suites[0]}."
        return did_you_mean(name, sorted(self._by_name[stage]))

    def suites_with(self, name: str) -> list[str]:
        """Return the other suites of the file that have an experiment of this name."""
        found = []
        for suite in self.params.suites:
            with suppress(ParamsError):
                if suite != self.suite and any(job.name == name for job in suite_experiments(self.params, suite)):
                    found.append(suite)
        return found

    def of_experiment(self, name: str) -> tuple[EvaluateJob, ...]:
        """Return the evaluations of one experiment."""
        return tuple(self._by_name["evaluate"].get(name, ()))


def load_plan(
    path: Path = PARAMS_FILE,
    *,
    suite: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    results: Path = paths.RESULTS,
    other_suites: bool = True,
) -> Plan:
    """Read `params.yaml` and plan a suite.

    Args:
        path: the parameter file.
        suite: the suite's name; None takes the file's `suite:`.
        overrides: top-level keys to replace, as given to ``snakemake --config``.
        results: root folder of results.
        other_suites: whether to check the other suites of the file too.

    Raises:
        ParamsError: if the file or a name is invalid, in this suite or, if checked, another one.
        DataError: if a file named in it does not exist.
    """
    files = read_files(path, overrides)
    params = files.parsed()
    chosen, problems = params.suite if suite is None else suite, Problems()
    if suite is not None:
        check_suite_name(suite, params.suites, "--suite")
    elif "suite" in (overrides or {}):
        check_suite_name(chosen, params.suites, "--config suite")
    with files.located():
        with problems.collected():
            plan = make_plan(params, chosen, results)
        if other_suites:
            with problems.collected():
                check_other_suites(params, chosen)
        problems.raise_all(MAX_PROBLEMS)
        return plan


def make_plan(params: Params, suite: str, results: Path = paths.RESULTS) -> Plan:
    """Plan the jobs of a suite; see `load_plan`."""
    return plan_experiments(params, suite, suite_experiments(params, suite), results)


def plans_of_file(plan: Plan) -> Iterator[Plan]:
    """Yield a plan, then those of the other suites of its file."""
    yield plan
    for suite in plan.params.suites:
        if suite != plan.suite:
            yield make_plan(plan.params, suite, plan.results)


def plan_experiments(params: Params, suite: str, experiments: Sequence[Experiment], results: Path) -> Plan:
    """Plan the jobs of some experiments, which need not be those of the suite.

    Raises:
        ParamsError: if an experiment would be tested twice with the same shots or on the same data set, which would
            count each episode twice, or if data are too small or cannot be read.
    """
    _check_repeats(experiments)
    prepare = _prepare_jobs(experiments, results)
    train: dict[str, TrainJob] = {}
    evaluate: list[EvaluateJob] = []
    for experiment in experiments:
        job = _train_job(experiment, prepare, params.train, train)
        evaluate += [_evaluate_job(experiment, job, prepare[target.label]) for target in experiment.targets]
    return Plan(params, suite, results, tuple(prepare.values()), tuple(train.values()), tuple(evaluate))


def _check_repeats(experiments: Iterable[Experiment]) -> None:
    problems = Problems()
    for experiment in experiments:
        tested = {"shots": experiment.shots, "targets": [target.label for target in experiment.targets]}
        for key, values in tested.items():
            repeated = [value for number, value in enumerate(values) if value in values[:number]]
            if repeated:
                problems.add(f"{experiment.name}: {quoted(repeated[0])} occurs more than once in its {key}; remove one")
    problems.raise_all()


def _prepare_jobs(experiments: Iterable[Experiment], results: Path) -> dict[str, PrepareJob]:
    """Return the job of every data set used for training or testing, with the episode lists its experiments need."""
    datasets: dict[str, Choice] = {}
    lists: dict[str, dict[str, EpisodeList]] = {}
    draws: dict[str, dict[Draw, None]] = {}
    for experiment in experiments:
        datasets.setdefault(experiment.dataset.label, experiment.dataset)
        for target in experiment.targets:
            datasets.setdefault(target.label, target)
            wanted = EpisodeList.of(experiment)
            of_target = lists.setdefault(target.label, {})
            of_target[wanted.file_name] = wanted.joined(of_target.get(wanted.file_name, wanted))
        for dataset, draw in (pair for training in experiment.trainings for pair in training.draws()):
            draws.setdefault(dataset.label, {})[draw] = None
    return {
        label: _prepare_job(dataset, tuple(lists.get(label, {}).values()), tuple(draws.get(label, ())), results)
        for label, dataset in datasets.items()
    }


def _prepare_job(dataset: Choice, lists: tuple[EpisodeList, ...], draws: tuple[Draw, ...], results: Path) -> PrepareJob:
    _check_given_paths(dataset, results)
    identity: Identity = {
        "stage": "prepare",
        "data": _data_identity(dataset),
        "lists": [asdict(item) for item in lists],
        "modules": module_digests(STAGE_MODULES["lists"]),
    }
    return PrepareJob(identity=identity, results=results, dataset=dataset, lists=lists, draws=draws)


def _given_paths(dataset: Choice) -> dict[str, str]:
    """Return the paths that the user gave in the settings of a data set, by setting."""
    named = getattr(DATASETS[dataset.name].settings, "given_paths", ())
    return {name: dataset.settings[name] for name in named if dataset.settings[name] is not None}


def _check_given_paths(dataset: Choice, results: Path) -> None:
    """Refuse paths that contain what this project writes, or are in it: their content changes with every run."""
    existing = {name: given for name, given in _given_paths(dataset).items() if os.path.exists(given)}
    for name, given in existing.items():
        path = Path(os.path.realpath(given))
        for output in (paths.PREPARED, paths.RESULTS, results, paths.CACHE, paths.LOGS, paths.RAW):
            folder = Path(os.path.realpath(output))
            contains, inside = folder.is_relative_to(path), path.is_relative_to(folder)
            if contains or (inside and output != paths.RAW):
                raise ParamsError(
                    f"prepare.{dataset.label}.{name}: {given!r} {'contains' if contains else 'is in'} {output}, where "
                    "this project writes its own files; give a path that contains only your files, such as "
                    "data/my-images"
                )


def _data_identity(dataset: Choice) -> Identity:
    """Return what determines the pixels: user files count by content, mirrors not at all."""
    part = DATASETS[dataset.name]
    ignored = [name for kind in ("given_paths", "not_content") for name in getattr(part.settings, kind, ())]
    return {
        "dataset": dataset.name,
        "settings": {name: value for name, value in dataset.settings.items() if name not in ignored},
        "content": {name: _given_digest(dataset, name, path) for name, path in _given_paths(dataset).items()},
        "files": {name: path_digest(PACKAGE_DIR / "datasets" / name) for name in part.data_files},
        "modules": module_digests([part.module, *STAGE_MODULES["prepare"]]),
        "packages": package_versions(part.packages),
    }


def _given_digest(dataset: Choice, name: str, path: str) -> str:
    """Return the digest of what a user gave by path; an error names the setting."""
    try:
        return path_digest(Path(path))
    except DataError as error:
        raise DataError(f"prepare.{dataset.label}.{name}: {error}") from None


def _train_job(
    experiment: Experiment, prepare: Mapping[str, PrepareJob], runtime: Train, planned: dict[str, TrainJob]
) -> TrainJob:
    """Return the training of an experiment, after planning the one that it starts from.

    Args:
        experiment: what is trained.
        prepare: the data sets by label.
        runtime: how jobs run.
        planned: the trainings so far, by key; the new ones are added.
    """
    init = None if experiment.init is None else _train_job(experiment.init, prepare, runtime, planned)
    data = prepare[experiment.dataset.label]
    identity: Identity = {
        "stage": "train",
        "settings": experiment.train_settings(),
        **({} if init is None else {"start": init.key}),
        "arithmetic": _arithmetic(runtime),
        "data": data.identity["data"],
        "modules": _job_modules(experiment, "train"),
    }
    job = TrainJob(identity=identity, results=data.results, experiment=experiment, prepare=data, init=init)
    return planned.setdefault(job.key, job)


def _evaluate_job(experiment: Experiment, train: TrainJob, target: PrepareJob) -> EvaluateJob:
    identity: Identity = {
        "stage": "evaluate",
        "training": train.key,
        "settings": experiment.evaluate_settings(target.dataset),
        "arithmetic": train.identity["arithmetic"],
        "data": target.identity["data"],
        "modules": _job_modules(experiment, "evaluate"),
    }
    return EvaluateJob(identity=identity, results=train.results, experiment=experiment, train=train, prepare=target)


def _arithmetic(runtime: Train) -> Identity:
    """Return how a job computes, as far as it is set: a sum over several CPU threads has other last bits.

    On a GPU the CPU threads only load data. `auto` is left as it is, because the plan may be made on another machine
    than the one that computes.
    """
    threads = {} if runtime.device == "cuda" else {"threads": runtime.threads}
    return {"device": runtime.device, **threads}


def _job_modules(experiment: Experiment, stage: str) -> dict[str, str]:
    """Return the digests of the modules of a stage and of the components the experiment uses, by name."""
    head = experiment.changes.head
    changed = () if stage == "train" or head is None else LEARNERS[head].modules
    return module_digests([*STAGE_MODULES[stage], *part_modules(experiment), *changed])


def part_modules(experiment: Experiment) -> tuple[str, ...]:
    """Return the modules named by the registry entries of an experiment's learner, its head and its backbone."""
    learner, backbone = LEARNERS[experiment.learner.name], BACKBONES[experiment.backbone.name]
    head = experiment.learner.settings.get("head")  # of a classifier, which is trained without it
    tested = () if head is None else LEARNERS[head].modules
    return tuple(dict.fromkeys([*learner.modules, *tested, *backbone.modules]))
