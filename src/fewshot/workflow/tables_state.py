"""Whether the tables in `results/tables/<suite>` are those of the present plan.

Tables have a stable place, so their key stands in a file beside them: `.key-<key>`. Git and DVC can restore older
tables and leave that file behind; a stamp is believed only if the manifest holds its key and describes the tables.
"""

import json
from pathlib import Path

from fewshot.digests import sha256_of
from fewshot.workflow.plan import Plan

MANIFEST = "manifest.json"


def stamp_file(plan: Plan) -> Path:
    """Return the file whose existence says that a suite's tables are up to date."""
    return plan.tables_dir / f".key-{plan.report_key}"


def tables_are_current(plan: Plan) -> bool:
    """Return whether a suite's tables exist whole and are those of the present plan."""
    stamp = stamp_file(plan)
    return stamp.exists() and _belongs(stamp)


def forget_foreign_tables(plan: Plan) -> None:
    """Remove stamps that lie beside tables they do not belong to; the next run then makes the tables again."""
    for stamp in plan.tables_dir.glob(".key-*"):
        if not _belongs(stamp):
            stamp.unlink(missing_ok=True)


def _belongs(stamp: Path) -> bool:
    try:
        manifest = json.loads((stamp.parent / MANIFEST).read_text(encoding="utf-8"))
        whole = all(sha256_of(stamp.parent / name) == sha256 for name, sha256 in manifest["files"].items())
        return whole and stamp.name == f".key-{manifest['key']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
