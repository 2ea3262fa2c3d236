"""runtimes.csv: duration and hardware of each training; not in the manifest, because times are not reproducible."""

from pathlib import Path
from typing import Any

import pandas

from fewshot.files import read_json
from fewshot.report.contents import Contents


def write_runtimes(contents: Contents, path: Path) -> None:
    """Write the scalar facts of each existing run.json, one line per experiment."""
    records = []
    for entry in contents.trainings:
        facts = _facts(entry.train_dir / "run.json")
        if facts:
            records.append({"experiment": entry.experiment, **facts})
    pandas.DataFrame(records or {"experiment": []}, dtype=object).to_csv(path, index=False, lineterminator="\n")


def _facts(path: Path) -> dict[str, Any]:
    """Return the facts of a run that are single values; {} if the file is missing."""
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
