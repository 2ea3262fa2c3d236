"""The state of a suite (`fewshot list`), and moving results of other suites out of `results/` (`fewshot tidy`)."""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from fewshot import paths
from fewshot.datasets import DATASETS
from fewshot.errors import DataError, ParamsError, did_you_mean, quoted
from fewshot.workflow.plan import Plan
from fewshot.workflow.planned_jobs import EvaluateJob, Job, PrepareJob
from fewshot.workflow.results import is_restorable, tidy
from fewshot.workflow.tables_state import MANIFEST, tables_are_current

DVC_FILE = Path("dvc.yaml")
EXPERIMENT_LIKE = re.compile(r"[A-Za-z0-9_]+(-[A-Za-z0-9_.]+){3,}")

STATE_WORDS = {"made": "made", "cached": "to restore", "begun": "begun", "-": "missing"}


def job_state(job: Job) -> str:
    """Return "made", "cached" (finished before, only to restore), "begun" (a checkpoint exists) or "-"."""
    if all(path.exists() for path in job.outputs.values()):
        return "made"
    if is_restorable(job):
        return "cached"
    return "begun" if (job.cache_dir / "checkpoints" / "checkpoint.pt").exists() else "-"


def jobs_to_restore(plan: Plan, stage: str) -> list[Job]:
    """Return the jobs of a stage that the workflow only restores.

    A data set counts only if its arrays, which are not part of the result, exist as well.
    """
    cached = [job for job in plan.jobs(stage) if job_state(job) == "cached"]
    return [job for job in cached if not isinstance(job, PrepareJob) or job.store_dir.is_dir()]


def suite_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return the keys, states, settings and paths of each evaluation of a suite, as plain values."""
    return [
        {
            "experiment": job.name,
            "target": job.target,
            "key": job.key,
            "training": job.train.name,
            "train_key": job.train.key,
            "trained": job_state(job.train),
            "evaluated": job_state(job),
            "settings": job.train.settings,
            "train_dir": str(job.train.dir),
            "evaluation": str(job.outputs["json"]),
        }
        for job in plan.evaluate
    ]


def suite_json(plan: Plan) -> str:
    """Return `suite_rows` as JSON."""
    return json.dumps(suite_rows(plan), indent=1)


def suite_table(plan: Plan) -> str:
    """Return the experiments of a suite as text: keys, states, and the commands that run them."""
    names = [experiment.name for experiment in plan.experiments]
    trained = {job.key: job_state(job) for job in plan.train}
    rows = [("experiment", "train key", "trained", "evaluated")]
    for name in names:
        evaluations = plan.of_experiment(name)
        key = evaluations[0].train.key
        rows.append((name, key, trained[key], _evaluated(evaluations)))
    example = names[0] if names else "<experiment>"
    suite = "" if plan.suite == plan.params.suite else f" --config suite={plan.suite}"
    return "\n".join(
        [
            f"suite {plan.suite}: {counted(names, 'experiment')}; "
            f"{counted(plan.train, 'training')}, {_count_states(plan.train)}; "
            f"{counted(plan.evaluate, 'evaluation')}, {_count_states(plan.evaluate)}",
            "",
            *aligned(rows),
            "",
            f"tables:   {plan.tables_dir} ({_tables_state(plan)})",
            f"run one:  snakemake --cores all {example}{suite}",
            f"run all:  snakemake --cores all{suite}",
        ]
    )


def counted(things: Sequence[object], what: str) -> str:
    """Return how many there are in words: "1 experiment", "2 experiments"."""
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line per row of texts, with the columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def check_experiment_names(plan: Plan, arguments: Iterable[str]) -> None:
    """Refuse a misspelt experiment, or one of another suite, among the arguments of `snakemake`.

    Snakemake would only say that there is no rule to produce it.

    Raises:
        ParamsError: names the closest experiment, or the suite that has it.
    """
    known = [experiment.name for experiment in plan.experiments]
    for name in arguments:
        if name in known or not EXPERIMENT_LIKE.fullmatch(name):
            continue
        suites, closest = plan.suites_with(name), did_you_mean(name, known, at_least=0.8)
        if suites or closest:
            hint = f" It is in {' and '.join(suites)}: add --config suite={suites[0]}." if suites else closest
            raise ParamsError(
                f"suite {quoted(plan.suite)} has no experiment {quoted(name)}.{hint} "
                f"'fewshot list --suite {plan.suite}' lists them all"
            )


def _count_states(jobs: tuple[Job, ...]) -> str:
    """Return "3 made, 1 begun, 2 missing"."""
    counts = Counter(job_state(job) for job in jobs)
    return ", ".join(f"{counts[state]} {word}" for state, word in STATE_WORDS.items() if counts[state]) or "none"


def _tables_state(plan: Plan) -> str:
    if not (plan.tables_dir / MANIFEST).exists():
        return "missing"
    return "up to date" if tables_are_current(plan) else "out of date"


def _evaluated(jobs: tuple[EvaluateJob, ...]) -> str:
    return ", ".join(f"{job.target} {job_state(job)}" for job in jobs)


def untracked_paths(plan: Plan) -> list[str]:
    """Return the paths given in `params.yaml` that DVC does not track, so that it would miss a change."""
    tracked = {os.path.normpath(dep) for dep in _tracked_deps() if isinstance(dep, str)}
    given = [
        job.dataset.settings[field]
        for job in plan.prepare
        for field in getattr(DATASETS[job.dataset.name].settings, "given_paths", ())
        if job.dataset.settings.get(field) is not None
    ]
    return [path for path in dict.fromkeys(given) if os.path.normpath(path) not in tracked]


def _tracked_deps() -> list[Any]:
    """Return the deps of stage prepare in dvc.yaml; none if there is no such file or stage.

    Raises:
        DataError: if the file is not readable YAML.
    """
    try:
        values = yaml.safe_load(DVC_FILE.read_text(encoding="utf-8"))
        return list(values["stages"]["prepare"]["deps"] or [])
    except (FileNotFoundError, KeyError, TypeError):
        return []
    except (OSError, ValueError, yaml.YAMLError):
        raise DataError(f"{DVC_FILE}: not readable YAML; 'dvc status' shows what is wrong") from None


def tidy_stage(plan: Plan, stage: str) -> list[Path]:
    """Keep only the results of the suite in `results/<stage>`; all others stay in `cache/`."""
    if stage == "report":
        return _tidy_tables(plan)
    return tidy(plan.results, stage, {job.dir for job in plan.jobs(stage)})


def _tidy_tables(plan: Plan) -> list[Path]:
    """Move the tables of other suites to the cache."""
    moved = []
    for folder in sorted((plan.results / "tables").glob("*")):
        if folder == plan.tables_dir or not folder.is_dir():
            continue
        kept = paths.CACHE / "tables" / folder.name
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, kept)
        moved.append(folder)
    return moved
