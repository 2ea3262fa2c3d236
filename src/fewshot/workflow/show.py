"""The table of a suite, or what is known about one experiment: `fewshot show`. Nothing is computed or restored."""

import csv
from pathlib import Path
from typing import Any

from fewshot import paths
from fewshot.errors import DataError, ParamsError, did_you_mean, quoted
from fewshot.experiments.experiment import Choice, Experiment
from fewshot.experiments.params import AS_TRAINED, Recipe
from fewshot.files import read_json
from fewshot.report.inputs import described_backbone, described_learner
from fewshot.workflow.listing import STATE_WORDS, aligned, job_state
from fewshot.workflow.plan import Plan, plans_of_file
from fewshot.workflow.planned_jobs import EvaluateJob, TrainJob
from fewshot.workflow.results import intact_result
from fewshot.workflow.tables_state import tables_are_current

HEADER = ("target", "way", "shot", "selection", "accuracy", "published", "verdict", "source")


def show(plan: Plan, name: str | None) -> str:
    """Return the table of a suite or the card of an experiment.

    Args:
        plan: of the suite that is shown without a name, and searched first for an experiment.
        name: of an experiment of any suite; None for the table.

    Raises:
        ParamsError: if no suite has such an experiment.
        DataError: if the suite has no table yet.
    """
    if name is None:
        return show_suite(plan)
    known: list[str] = []
    for searched in plans_of_file(plan):
        if jobs := searched.of_experiment(name):
            return show_experiment(searched, jobs)
        known += [experiment.name for experiment in searched.experiments]
    known += plan.params.suites
    raise ParamsError(
        f"there is no suite or experiment {quoted(name)}.{did_you_mean(name, known)} 'fewshot list' lists the "
        "experiments of a suite"
    )


def show_suite(plan: Plan) -> str:
    """Return the table of a suite as its last report wrote it, and whether it is up to date."""
    run = f"snakemake --cores all --config suite={plan.suite}"
    folder = _tables_dir(plan)
    if folder is None:
        raise DataError(f"suite {plan.suite} has no table yet; run: {run}")
    table = (folder / "results.txt").read_text(encoding="utf-8").rstrip("\n")
    current = tables_are_current(plan, folder)
    state = "up to date" if current else f"of an earlier run; to update it: {run}"
    return f"suite {plan.suite}\n\n{table}\n\n{folder} ({state})"


def _tables_dir(plan: Plan) -> Path | None:
    """Return the folder of a suite's tables; those of other suites than the last one run are in the cache."""
    folders = (plan.tables_dir, paths.CACHE / "tables" / plan.suite)
    return next((folder for folder in folders if (folder / "results.txt").is_file()), None)


def show_experiment(plan: Plan, jobs: tuple[EvaluateJob, ...]) -> str:
    """Return the card of an experiment: parts, training, numbers with their verdicts, files.

    Args:
        plan: the suite.
        jobs: the evaluations of the experiment.
    """
    experiment, train = jobs[0].experiment, jobs[0].train
    facts = [*_parts(experiment), *_training(train), *(fact for job in jobs for fact in _state(job))]
    verdicts = _verdicts(plan)
    numbers = [line for job in jobs for line in _numbers(job, verdicts)]
    columns = len(HEADER) if verdicts else HEADER.index("published")
    return "\n".join(
        [
            f"experiment {experiment.name} of suite {plan.suite}",
            "",
            *aligned(facts),
            "",
            *([*aligned([line[:columns] for line in (HEADER, *numbers)]), ""] if numbers else []),
            *([f"published, verdict: from 'fewshot show {plan.suite}', over all seeds", ""] if verdicts else []),
            f"settings and keys: fewshot explain {experiment.name} --suite {plan.suite}",
            f"run it:            snakemake --cores all {experiment.name} --config suite={plan.suite}",
        ]
    )


def _parts(experiment: Experiment) -> list[tuple[str, str]]:
    """Return what an experiment is made of."""
    recipe, variant, init = experiment.recipe, experiment.test_variant, experiment.init
    steps = f"{recipe.epochs} epochs of {recipe.steps_per_epoch} steps, {_step(recipe)}"
    how = f"{steps}, {recipe.optimizer} at {recipe.learning_rate:g}" if recipe.epochs else "no training"
    return [
        ("dataset", experiment.dataset.label),
        ("backbone", _with_label(experiment.backbone, described_backbone(experiment.backbone))),
        ("learner", _with_label(experiment.learner, described_learner(experiment.learner))),
        ("recipe", f"{experiment.recipe_name}: {how}"),
        *([] if init is None else [("init", init.training_name)]),
        *([] if variant == AS_TRAINED else [("variant", variant)]),
        ("seed", str(experiment.seed)),
    ]


def _step(recipe: Recipe) -> str:
    """Return what an outer step is trained on."""
    if recipe.batch_size:
        return f"batches of {recipe.batch_size} images"
    form = f"{recipe.n_way}-way {recipe.n_shot}-shot, {recipe.n_query} queries per class"
    return f"meta-batch {recipe.meta_batch}, {form}"


def _with_label(choice: Choice, described: str) -> str:
    """Return 'conv4 (filters 32)', or 'maml_quick: maml (inner_steps 2)' of an entry with a name of its own."""
    return described if choice.label == choice.name else f"{choice.label}: {described}"


def _training(job: TrainJob) -> list[tuple[str, str]]:
    """Return the state of a training, and what its run recorded."""
    state, folder = STATE_WORDS[job_state(job)], intact_result(job)
    if folder is None:
        return [("training", f"{job.key}, {state}")]
    run: dict[str, Any] = read_json(folder / "run.json")
    recorded = [f"{run['seconds']:.0f} s on {run['machine']['device']}"] if "seconds" in run else []
    averaged = job.experiment.recipe.average_checkpoints
    if averaged > 1:
        recorded.append(f"mean of the weights after the last {averaged} epochs")
    elif run.get("selected_epoch"):
        recorded.append(f"epoch {run['selected_epoch']} selected{_validation(folder, run['selected_epoch'])}")
    return [("training", ", ".join([job.key, state, *recorded])), ("", str(folder))]


def _validation(folder: Path, epoch: int) -> str:
    """Return ' (validation 89.10 ± 0.61 %)' of an epoch, or '' if it was not validated."""
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        row = next((row for row in csv.DictReader(file) if row["epoch"] == str(epoch)), {})
    if not row.get("validation_accuracy"):
        return ""
    accuracy, half_width = (100 * float(row[key]) for key in ("validation_accuracy", "validation_ci95"))
    return f" (validation {accuracy:.2f} ± {half_width:.2f} %)"


def _state(job: EvaluateJob) -> list[tuple[str, str]]:
    """Return the state of an evaluation and its folder."""
    folder = intact_result(job)
    seen = job.experiment.seen_classes(job.prepare.dataset).text
    facts = [("evaluation", f"{job.key} on {job.target}, {STATE_WORDS[job_state(job)]}")]
    facts += [("", seen)] if seen else []
    return facts if folder is None else [*facts, ("", str(folder))]


def _numbers(job: EvaluateJob, verdicts: dict[tuple[str, ...], dict[str, str]]) -> list[tuple[str, ...]]:
    """Return a line per number of a finished evaluation."""
    if (folder := intact_result(job)) is None:
        return []
    record = read_json(folder / f"{job.target}.json")
    lines: list[tuple[str, ...]] = []
    for result in record["results"]:
        shot, selection = str(result["shot"]), result["selection"]
        accuracy = f"{100 * result['accuracy']:.2f} ± {100 * result['ci95']:.2f} %"
        row = verdicts.get((job.experiment.group, job.target, shot, selection))
        compared = ("", "", "") if row is None else (_published(row), row["verdict"], row["published_source"])
        lines.append((job.target, str(record["n_way"]), shot, selection, accuracy, *compared))
    return lines


def _verdicts(plan: Plan) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the rows of an up-to-date table by experiment without seed, target, shot and selection; else {}."""
    folder = _tables_dir(plan)
    if folder is None or not tables_are_current(plan, folder):
        return {}
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["experiment"], row["target"], row["shot"], row["selection"]): row for row in rows}


def _published(row: dict[str, str]) -> str:
    """Return '80.98 ± 0.83 %', or '' if no number is published."""
    interval = f" ± {row['published_ci95_pct']}" if row["published_ci95_pct"] else ""
    return f"{row['published_pct']}{interval} %" if row["published_pct"] else ""
