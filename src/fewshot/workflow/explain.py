"""What determines the keys of an experiment, and what changed since its last recorded result: `fewshot explain`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fewshot import paths
from fewshot.errors import DataError
from fewshot.files import RESTORE, read_json
from fewshot.workflow.listing import STATE_WORDS, job_state
from fewshot.workflow.plan import Plan
from fewshot.workflow.planned_jobs import EvaluateJob, Identity, Job
from fewshot.workflow.results import IDENTITY, RESULT, names_in

ABSENT = "(none)"

# How one entry of each section of an identity is labelled.
ENTRY_NAMES = {
    "settings": "setting",
    "modules": "module",
    "lists": "episode list",
    "content": "content of",
    "files": "file",
    "packages": "package",
    "training": "training",
    "start": "starts from training",
    "arithmetic": "runtime",
    "dataset": "base",
    "stage": "stage",
}


def explain_experiment(plan: Plan, name: str) -> str:
    """Return, as text, the facts that determine the keys of an experiment, and those that have changed.

    Args:
        plan: the plan of the suite.
        name: name of the experiment.

    Raises:
        ParamsError: if the suite has no such experiment.
        DataError: if a recorded identity is damaged.
    """
    jobs: list[Job] = [plan.find("train", name), *plan.of_experiment(name)]
    return "\n\n".join([*map(_facts_text, jobs), *map(_changes_text, jobs)])


def facts(identity: Identity) -> dict[str, Any]:
    """Return an identity as a flat dictionary: 'setting recipe.n_shot', 'module fewshot.heads.ridge', ... -> value."""
    flat: dict[str, Any] = {}
    for section, content in identity.items():
        if section == "data":
            flat |= {f"data {label}": value for label, value in facts(content).items()}
        else:
            kind = ENTRY_NAMES.get(section, section)
            flat |= {f"{kind} {place}".rstrip(): value for place, value in _leaves(content)}
    return flat


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) of every value in nested sections."""
    if not isinstance(value, Mapping):
        yield place, value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{place}.{key}" if place else str(key))


def changes(before: Identity, now: Identity) -> list[str]:
    """Return a line for each fact in which two identities differ, naming the old and the new value."""
    old, new = facts(before), facts(now)
    return [
        f"{label}: {_shown(old.get(label, ABSENT))} -> {_shown(new.get(label, ABSENT))}"
        for label in dict.fromkeys([*new, *old])
        if old.get(label, ABSENT) != new.get(label, ABSENT)
    ]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def last_recorded(job: Job) -> tuple[Path, Identity] | None:
    """Return the newest recorded result of a job's name (and target) that has another key, and its identity."""
    results = {folder.name: folder for folder in (job.results / job.stage / job.name).glob("*")}
    entries = (paths.CACHE / job.stage).glob("*")
    cached = {entry.name: entry / RESULT for entry in entries if job.name in names_in(entry)}
    folders = {**results, **cached}  # the cache wins: checkouts leave its times alone
    files = {key: folder / IDENTITY for key, folder in folders.items() if key != job.key}
    files = {key: file for key, file in files.items() if file.is_file()}
    records = [(file.stat().st_mtime_ns, file.parent, _read_identity(file)) for file in files.values()]
    found = [record for record in records if _same_target(record[2], job)]
    return max(found, key=lambda record: record[:2])[1:] if found else None


def _read_identity(file: Path) -> Identity:
    """Return a recorded identity.

    Raises:
        DataError: if the file is damaged.
    """
    identity = read_json(file)
    if not isinstance(identity, dict) or not isinstance(identity.get("settings", {}), dict):
        raise DataError(f"{file}: not an identity; {RESTORE}")
    return identity


def _same_target(identity: Identity, job: Job) -> bool:
    return not isinstance(job, EvaluateJob) or identity.get("settings", {}).get("target") == job.target


def _title(job: Job) -> str:
    target = f" on {job.target}" if isinstance(job, EvaluateJob) else ""
    return f"{job.stage} {job.name}{target}: key {job.key}, {STATE_WORDS[job_state(job)]}"


def _facts_text(job: Job) -> str:
    table = facts(job.identity)
    width = max(map(len, table))
    return "\n".join([_title(job), *(f"  {label.ljust(width)}  {_shown(value)}" for label, value in table.items())])


def _changes_text(job: Job) -> str:
    title = f"changes of {job.stage}{f' on {job.target}' if isinstance(job, EvaluateJob) else ''}"
    recorded = last_recorded(job)
    if recorded is None:
        return f"{title}: no result with another key is recorded"
    folder, before = recorded
    return "\n".join([f"{title} since {folder}:", *(f"  {line}" for line in changes(before, job.identity))])
