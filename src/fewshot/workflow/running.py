"""Which Snakemakes are running in this folder, and removal of the locks a killed one left behind.

Snakemake writes lock files to `.snakemake/locks` and removes them when it ends; after SIGKILL or a power cut they
remain and block the next run. So each Snakemake of this project also records itself in `.snakemake/running` and holds a
lock of the operating system on its record, which ends with its process and so distinguishes the two cases.
"""

import fcntl
import json
import os
import platform
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

SNAKEMAKE_DIR = Path(".snakemake")


@dataclass(frozen=True)
class Run:
    """A Snakemake that records itself.

    Attributes:
        process: its process id.
        machine: name of the machine it runs on.
        since: local time of its start.
        command: how to start it again.
    """

    process: int
    machine: str
    since: str
    command: str

    def __str__(self) -> str:
        where = "" if self.machine == platform.node() else f" on {self.machine}"
        return f"process {self.process}{where}, since {self.since}: {self.command}"


def this_command() -> str:
    """Return the command that the user typed to start this Snakemake."""
    if "DVC_ROOT" in os.environ:  # set by DVC for the commands of its stages
        return "dvc repro"
    return "make run" if "MAKELEVEL" in os.environ else shlex.join(["snakemake", *sys.argv[1:]])


def register(folder: Path = SNAKEMAKE_DIR) -> tuple[IO[str] | None, int]:
    """Record this Snakemake; if no other is running in this folder, remove the lock files of killed ones.

    Nothing is removed if the last run was on another machine (its processes are not visible from here) or if the file
    system does not support locks.

    Args:
        folder: Snakemake's own folder.

    Returns:
        A file to keep open while this process runs, and the number of lock files removed.
    """
    try:
        (folder / "running").mkdir(parents=True, exist_ok=True)
        with (folder / "running" / ".lock").open("w", encoding="utf-8") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)  # for milliseconds
            stale = _lock_files(folder)
            if any(_other_runs(folder)):
                stale = []
            for lock in stale:
                lock.unlink(missing_ok=True)
            return _record(folder), len(stale)
    except OSError:
        return None, 0


def is_running(folder: Path = SNAKEMAKE_DIR) -> bool:
    """Return whether a Snakemake runs in this folder, here or, as far as its locks tell, on another machine."""
    try:
        return any(_other_runs(folder))
    except OSError:
        return False


def describe_conflict(folder: Path = SNAKEMAKE_DIR) -> str:
    """Return what to tell the user whom Snakemake refuses to run because of its lock."""
    try:
        running, elsewhere = _other_runs(folder)
    except OSError:
        running, elsewhere = [], []
    if running:
        return (
            f"Snakemake is already running in this folder ({'; '.join(map(str, running))}). Wait until it has "
            f"finished, or stop it: kill {running[0].process} (finished work is kept). Do not use --unlock meanwhile."
        )
    if elsewhere:
        return (
            f"A Snakemake on another machine has locked this folder ({'; '.join(map(str, elsewhere))}). If it is still "
            "running there, wait until it has finished; if it was killed, remove its lock: snakemake --unlock"
        )
    return "This folder is locked, but no running Snakemake is visible. If none is running: snakemake --unlock"


def _lock_files(folder: Path) -> list[Path]:
    """Return Snakemake's own lock files."""
    return sorted((folder / "locks").glob("*.lock"))


def _record(folder: Path) -> IO[str]:
    """Write the record of this process, and lock it until the process ends."""
    run = Run(os.getpid(), platform.node(), time.strftime("%H:%M on %d %B"), this_command())
    file = (folder / "running" / f"{run.machine}-{run.process}.json").open("w", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    json.dump(asdict(run), file)
    file.flush()
    return file


def _other_runs(folder: Path) -> tuple[list[Run], list[Run]]:
    """Return the other Snakemakes that are running, and those on other machines that may be; delete old records."""
    running, elsewhere = [], []
    own = f"{platform.node()}-{os.getpid()}.json"
    for path in sorted((folder / "running").glob("*.json")):
        if path.name == own:
            continue
        run, alive = _read_record(path)
        if alive:
            running.append(run)
        elif run.machine != platform.node() and _lock_files(folder):
            elsewhere.append(run)
        else:
            path.unlink(missing_ok=True)
    return running, elsewhere


def _read_record(path: Path) -> tuple[Run, bool]:
    """Return a recorded run, and whether its process holds the lock on the record."""
    with path.open("r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alive = False
        except BlockingIOError:
            alive = True
        try:
            return Run(**json.load(file)), alive
        except (ValueError, TypeError):  # killed while it was written
            return Run(0, platform.node(), "?", "?"), alive
