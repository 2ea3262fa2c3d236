"""Moves the entries of `cache/` written by versions up to 0.1.0, `cache/<stage>/<name>/<key>/`, to their place by key.

Each entry is moved once, by a rename. One that a running job holds, or whose result is at its place already, stays
where it is; `fewshot prune` lists it.
"""

import re
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fewshot import paths
from fewshot.digests import KEY_LENGTH
from fewshot.workflow.results import RESULT, add_name


def is_key(name: str) -> bool:
    """Return whether a folder's name is a key."""
    return re.fullmatch(rf"[0-9a-f]{{{KEY_LENGTH}}}", name) is not None


def old_entries(stage: str) -> list[Path]:
    """Return the entries of a stage that are still stored by name and key."""
    return sorted(entry for entry in (paths.CACHE / stage).glob("*/*") if is_key(entry.name) and entry.is_dir())


def move_old_entries() -> None:
    """Move every entry stored by name and key to its place by key; nothing is deleted."""
    for stage in paths.JOB_STAGES:
        for entry in old_entries(stage):
            with suppress(OSError):  # a read-only cache, or moved by another process
                _move(entry, paths.CACHE / stage / entry.name)


def _move(entry: Path, place: Path) -> None:
    """Move an entry, or only its result if its place is taken by an unfinished one, unless a job is using it."""
    try:
        with FileLock(entry / ".lock", timeout=0):
            if not place.exists():
                entry.rename(place)
            elif (entry / RESULT).is_dir() and not (place / RESULT).exists():
                (entry / RESULT).rename(place / RESULT)
            else:
                return
    except Timeout:
        return
    add_name(place, entry.parent.name)
    with suppress(OSError):  # other keys are still there
        entry.parent.rmdir()
