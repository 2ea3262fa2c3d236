"""Finished results: published in one step, and kept in `cache/`, which no workflow tool touches, to be restored later.

cache/<stage>/<key>/partial/       files of a job while it runs
cache/<stage>/<key>/result/        the finished files, moved there in one step, with their hashes
cache/<stage>/<key>/names.txt      names under which it was used: labels, for `fewshot explain` and `fewshot prune`
results/<stage>/<name>/<key>/      a copy of the files, hashes last; what the workflow tools see

The cache is found by key alone, so a result is restored under any name. What a job writes must not contain its name.
"""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fewshot import paths
from fewshot.digests import sha256_of
from fewshot.errors import ResourceError
from fewshot.files import write_atomic, write_json
from fewshot.progress import say
from fewshot.workflow.plan import Job

HASHES = "sha256.json"
IDENTITY = "identity.json"
RESULT = "result"
NAMES = "names.txt"


def run_job(job: Job, work: Callable[[Path, Path], None]) -> str:
    """Compute the result of a job, or restore it if it was finished before, under whatever name.

    The job's identity is recorded with the files of the result.

    Args:
        job: the job.
        work: called with an empty folder for the result files and a folder for checkpoints, which is kept until the job
            is finished.

    Returns:
        "made" or "restored".

    Raises:
        ResourceError: if a folder cannot be written or the disk is full.
    """
    cache, target = job.cache_dir, job.dir
    with _explain_full_disk():
        for folder in (cache, target):
            check_writable(folder)
        with _job_lock(cache / ".lock"):
            add_name(cache, job.name)
            if (finished := next(filter(_is_intact, _copies(job)), None)) is not None:
                if finished != cache / RESULT:
                    _copy_to_cache(finished, cache / RESULT)
                _copy_result(cache / RESULT, target)
                return "restored"
            _set_aside(cache / RESULT)
            partial, checkpoints = cache / "partial", cache / "checkpoints"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            checkpoints.mkdir(exist_ok=True)
            work(partial, checkpoints)
            write_json(partial / IDENTITY, job.identity)
            _move_to_cache(partial, cache / RESULT)
            _copy_result(cache / RESULT, target)
            shutil.rmtree(checkpoints, ignore_errors=True)
            return "made"


def restore_missing(job: Job) -> None:
    """Restore the missing files of a finished result that a job is about to read.

    A storage provides only the files that a rule names, and users may delete some.
    """
    if not has_all_files(job.dir) and (finished := next(filter(_is_intact, _copies(job)), None)) is not None:
        _copy_result(finished, job.dir)


def is_restorable(job: Job) -> bool:
    """Return whether every file of a job's result exists somewhere; their content is checked when they are restored."""
    return any(map(has_all_files, _copies(job)))


def _copies(job: Job) -> Iterator[Path]:
    """Yield the folders that may hold the result of a job: in `cache/`, and in `results/` under any name.

    A result that was pulled is only in `results/`, under the name it had when it was recorded.
    """
    yield job.cache_dir / RESULT
    stage = job.dir.parent.parent
    names = sorted(os.listdir(stage)) if stage.is_dir() else []
    yield from (stage / name / job.key for name in names)


def names_in(cache_dir: Path) -> list[str]:
    """Return the names under which an entry of the cache was used, oldest first."""
    try:
        return (cache_dir / NAMES).read_text(encoding="utf-8").split()
    except OSError:
        return []


def add_name(cache_dir: Path, name: str) -> None:
    """Record a name under which an entry of the cache is used."""
    if name not in (names := names_in(cache_dir)):
        write_atomic(cache_dir / NAMES, "".join(f"{known}\n" for known in (*names, name)).encode())


@contextmanager
def _job_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a job; report if another process has it, such as a job whose Snakemake was killed."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process is running this job; waiting for it to finish")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def check_writable(folder: Path) -> None:
    """Create a folder and try to write to it, so that a read-only folder is found before hours of work.

    Raises:
        ResourceError: if it cannot be written.
    """
    probe = folder / f".write-test-{os.getpid()}-{threading.get_ident()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceError(
            f"{folder}: cannot be written ({error.strerror}); fix its permissions or remount it"
        ) from None


@contextmanager
def _explain_full_disk() -> Iterator[None]:
    """Turn "no space left on device" into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceError(
            f"the disk is full ({error.filename or paths.CACHE}); free some space ('fewshot prune' lists results that "
            "no suite needs), then rerun: finished work is kept and training resumes from the last checkpoint"
        ) from None


def _move_to_cache(partial: Path, result: Path) -> None:
    """Record the hashes of the files, flush the files to disk and move the folder into place."""
    hashes = {file.relative_to(partial).as_posix(): sha256_of(file) for file in _files(partial)}
    (partial / HASHES).write_text(json.dumps(hashes, indent=1) + "\n")
    for file in _files(partial):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    shutil.rmtree(result, ignore_errors=True)
    partial.rename(result)


def _set_aside(result: Path) -> None:
    """Rename a damaged result, so that it is no longer taken for one to restore."""
    if result.is_dir():
        aside = result.with_name("damaged")
        shutil.rmtree(aside, ignore_errors=True)
        result.rename(aside)


def _copy_to_cache(folder: Path, place: Path) -> None:
    """Copy a folder of `results/` into an entry of the cache, in one step."""
    moving = place.with_name("moving")
    shutil.rmtree(moving, ignore_errors=True)
    shutil.copytree(folder, moving)
    shutil.rmtree(place, ignore_errors=True)
    moving.rename(place)


def _is_intact(result: Path) -> bool:
    """Return whether every file of a finished result exists and is unchanged."""
    return _check_files(result, lambda file, sha256: sha256_of(file) == sha256)


def has_all_files(result: Path) -> bool:
    """Return whether every file of a finished result exists, regardless of content."""
    return _check_files(result, lambda file, _: file.exists())


def _check_files(result: Path, check: Callable[[Path, str], bool]) -> bool:
    """Return whether a check of (file, recorded sha256) holds for every recorded file of a result."""
    try:
        hashes = json.loads((result / HASHES).read_text())
        return bool(hashes) and all(check(result / name, value) for name, value in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _copy_result(result: Path, target: Path) -> None:
    """Copy a finished result file by file; each file appears complete or not at all."""
    hashes = json.loads((result / HASHES).read_text())
    for name, sha256 in hashes.items():
        if not (target / name).is_file() or sha256_of(target / name) != sha256:
            _copy_file(result / name, target / name)
    _copy_file(result / HASHES, target / HASHES)


def _copy_file(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.copyfile(source, scratch)
    scratch.replace(place)


def tidy(results: Path, stage: str, keep: set[Path]) -> list[Path]:
    """Move results that are not part of the current suite out of `results/<stage>`; they stay in the cache.

    A result that is not yet in the cache (it was pulled) is moved there; one that lacks files is stored as `incomplete`
    and never used as a result.

    Args:
        results: root folder of results.
        stage: prepare, train or evaluate.
        keep: result folders to leave in place.

    Returns:
        The moved folders.
    """
    moved = []
    for folder in sorted((results / stage).glob("*/*")):
        if folder in keep or not folder.is_dir():
            continue
        kept = paths.CACHE / stage / folder.name
        if not _is_intact(kept / RESULT):
            _copy_to_cache(folder, kept / (RESULT if _is_intact(folder) else "incomplete"))
            add_name(kept, folder.parent.name)
        shutil.rmtree(folder)
        moved.append(folder)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    return moved


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != HASHES)
