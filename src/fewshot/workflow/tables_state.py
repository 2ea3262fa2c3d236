"""Whether the tables in `results/tables/<suite>` are those of the current plan.

Tables have a fixed path, so their key is the name of a stamp file next to them: `.key-<key>`. Git and DVC can restore
older tables and leave that file behind; a stamp is valid only if the manifest has its key and matches the tables.
"""

from pathlib import Path
from typing import Any

from fewshot.digests import has_digest
from fewshot.errors import DataError
from fewshot.files import read_json
from fewshot.workflow.plan import Plan

MANIFEST = "manifest.json"


def stamp_file(plan: Plan) -> Path:
    """Return the file that exists if the tables of a suite are up to date."""
    return plan.tables_dir / f".key-{plan.report_key}"


def tables_are_current(plan: Plan, folder: Path | None = None) -> bool:
    """Return whether the tables of a suite, perhaps moved to `folder`, are complete and those of the current plan."""
    stamp = (folder or plan.tables_dir) / stamp_file(plan).name
    return stamp.exists() and _matches_tables(stamp)


def remove_stale_stamps(plan: Plan) -> None:
    """Remove stamps that do not match the tables next to them, so that the next run rebuilds the tables."""
    for stamp in plan.tables_dir.glob(".key-*"):
        if not _matches_tables(stamp):
            stamp.unlink(missing_ok=True)


def damaged_tables(folder: Path) -> list[str]:
    """Return the files of a suite's tables that differ from the manifest or are missing.

    Raises:
        DataError: if the manifest is missing or damaged.
    """
    files = _read_manifest(folder)["files"]
    return [name for name, sha256 in files.items() if not has_digest(folder / name, sha256)]


def _matches_tables(stamp: Path) -> bool:
    try:
        return stamp.name == f".key-{_read_manifest(stamp.parent)['key']}" and not damaged_tables(stamp.parent)
    except DataError:
        return False


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST, advice=f"delete {folder} and rerun")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict) or "key" not in manifest:
        raise DataError(f"{folder / MANIFEST}: not the manifest of a report; delete {folder} and rerun")
    return manifest
