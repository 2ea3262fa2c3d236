"""Whether a Snakemake is running in this folder, and removal of the locks a killed one left behind.

Snakemake writes lock files to `.snakemake/locks` and removes them when it ends; after SIGKILL or a power cut they
remain and block the next run. A lock of the operating system ends with its process and so distinguishes the two cases:
all running Snakemakes of this project share one, and only a Snakemake that runs alone removes stale files.
"""

import fcntl
import os
import platform
from pathlib import Path
from typing import IO

SNAKEMAKE_DIR = Path(".snakemake")


def clear_stale_locks(folder: Path = SNAKEMAKE_DIR) -> tuple[IO[str] | None, int]:
    """Remove the lock files of a killed Snakemake, if no Snakemake is running in this folder.

    Nothing is removed if the last run was on another machine (its processes are not visible from here) or if the file
    system does not support locks.

    Args:
        folder: Snakemake's own folder.

    Returns:
        A file to keep open while this process runs, and the number of lock files removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "alive.lock").open("a+", encoding="utf-8")
    except OSError:
        return None, 0
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        removed = _remove_lock_files(folder, file)
        fcntl.flock(file, fcntl.LOCK_SH)
    except BlockingIOError:
        removed = 0
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        return file, 0
    return file, removed


def _remove_lock_files(folder: Path, file: IO[str]) -> int:
    """Remove the lock files if the last run was on this machine; record this machine as the current one."""
    file.seek(0)
    last, here = file.read().strip(), platform.node()
    stale = sorted((folder / "locks").glob("*.lock"))
    if stale and last not in ("", here):
        return 0
    for lock in stale:
        lock.unlink(missing_ok=True)
    file.truncate(0)
    file.write(here)
    file.flush()
    os.fsync(file.fileno())
    return len(stale)
