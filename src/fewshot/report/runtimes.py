"""Duration and hardware of each training: runtimes.csv, and the columns of the page. Times are not reproducible."""

from pathlib import Path
from typing import Any

import pandas

from fewshot.files import read_json
from fewshot.report.contents import Contents
from fewshot.report.inputs import ReportEntry


def write_runtimes(contents: Contents, path: Path) -> None:
    """Write the scalar facts of each existing run.json, one line per experiment."""
    records = []
    for entry in contents.trainings:
        facts = training_facts(entry)
        if facts:
            records.append({"experiment": entry.experiment, **facts})
    pandas.DataFrame(records or {"experiment": []}, dtype=object).to_csv(path, index=False, lineterminator="\n")


def training_facts(entry: ReportEntry) -> dict[str, Any]:
    """Return what run.json says about a training in single values, "machine.device" and so on; {} without the file."""
    path = entry.train_dir / "run.json"
    content = read_json(path) if path.is_file() else None
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in _flat(content) if name.partition(".")[0] not in ("train", "settings")}


def _flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested values as dotted names; lists are left out."""
    found = []
    for name, value in content.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            found.append((f"{prefix}{name}", value))
    return found
