"""Which Snakemake runs in this folder, and what a killed one left behind.

Snakemake notes in `.snakemake/locks` what it works on and takes the notes away when it ends; after SIGKILL or a power
cut they stay and stop the next run. A lock held by the operating system ends with its process, so it tells the two
cases apart: every Snakemake of this project shares one while it lives, and only one that is alone tidies up.
"""

import fcntl
import os
import platform
from pathlib import Path
from typing import IO

SNAKEMAKE_DIR = Path(".snakemake")


def clear_stale_locks(folder: Path = SNAKEMAKE_DIR) -> tuple[IO[str] | None, int]:
    """Remove the notes of a killed Snakemake, if no Snakemake lives in this folder.

    Nothing is removed where the last run was on another machine (its processes cannot be seen from here) or where the
    file system has no locks.

    Args:
        folder: Snakemake's own folder.

    Returns:
        A file to keep open as long as this process works here, and the number of notes removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "alive.lock").open("a+", encoding="utf-8")
    except OSError:
        return None, 0
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        removed = _remove_notes(folder, file)
        fcntl.flock(file, fcntl.LOCK_SH)
    except BlockingIOError:
        removed = 0
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        return file, 0
    return file, removed


def _remove_notes(folder: Path, file: IO[str]) -> int:
    """Remove the notes if the last run was on this machine; sign for the present run."""
    file.seek(0)
    last, here = file.read().strip(), platform.node()
    stale = sorted((folder / "locks").glob("*.lock"))
    if stale and last not in ("", here):
        return 0
    for note in stale:
        note.unlink(missing_ok=True)
    file.truncate(0)
    file.write(here)
    file.flush()
    os.fsync(file.fileno())
    return len(stale)
