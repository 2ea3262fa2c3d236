"""Whether the tables in `results/tables/<suite>` are those of the current plan.

Tables have a fixed path, so their key is the name of a stamp file next to them: `.key-<key>`. Git and DVC can restore
older tables and leave that file behind; a stamp is valid only if the manifest has its key and matches the tables.
"""

import json
from pathlib import Path

from fewshot.digests import sha256_of
from fewshot.workflow.plan import Plan

MANIFEST = "manifest.json"


def stamp_file(plan: Plan) -> Path:
    """Return the file that exists if the tables of a suite are up to date."""
    return plan.tables_dir / f".key-{plan.report_key}"


def tables_are_current(plan: Plan) -> bool:
    """Return whether the tables of a suite are complete and those of the current plan."""
    stamp = stamp_file(plan)
    return stamp.exists() and _matches_tables(stamp)


def remove_stale_stamps(plan: Plan) -> None:
    """Remove stamps that do not match the tables next to them, so that the next run rebuilds the tables."""
    for stamp in plan.tables_dir.glob(".key-*"):
        if not _matches_tables(stamp):
            stamp.unlink(missing_ok=True)


def _matches_tables(stamp: Path) -> bool:
    try:
        manifest = json.loads((stamp.parent / MANIFEST).read_text(encoding="utf-8"))
        whole = all(sha256_of(stamp.parent / name) == sha256 for name, sha256 in manifest["files"].items())
        return whole and stamp.name == f".key-{manifest['key']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
