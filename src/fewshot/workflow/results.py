"""Finished results: published in one step, and kept in `cache/`, which no workflow tool touches, to be restored later.

cache/<stage>/<key>/partial/       files of a job while it runs
cache/<stage>/<key>/result/        the finished files, moved there in one step, with their hashes
cache/<stage>/<key>/progress.json  how far the job is, while it runs (see `progress`)
cache/<stage>/<key>/names.txt      names under which it was used: labels, for `fewshot explain` and `fewshot prune`
results/<stage>/<name>/<key>/      a copy of the files, hashes last; what the workflow tools see

The cache is found by key alone, so a result is restored under any name. What a job writes must not contain its name.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from fewshot import paths
from fewshot.digests import digest, file_digest, has_digest, save_digests, sha256_of
from fewshot.errors import DataError, ResourceError
from fewshot.files import DISK_FULL, write_atomic, write_json
from fewshot.progress import reported_in, say
from fewshot.workflow.planned_jobs import Job

HASHES = "sha256.json"
IDENTITY = "identity.json"
RESULT = "result"
CHECKPOINTS = "checkpoints"
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
        ResourceError: if a folder cannot be written, the disk is full, or files of the job were deleted while it ran.
    """
    cache, target = job.cache_dir, job.dir
    with _explain_full_disk(), _explain_deleted_files(cache, target):
        for folder in (cache, target):
            check_writable(folder)
        with _job_lock(cache / ".lock"), reported_in(cache / paths.PROGRESS):
            add_name(cache, job.name)
            kept = cache / RESULT
            if (finished := _intact_copy(job)) is not None:
                if finished != kept:
                    _copy_to_cache(finished, kept)
                _copy_result(kept, target)
                return "restored"
            _set_aside(kept)
            partial, checkpoints = cache / "partial", cache / CHECKPOINTS
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            checkpoints.mkdir(exist_ok=True)
            work(partial, checkpoints)
            write_json(partial / IDENTITY, job.identity)
            _move_to_cache(partial, kept)
            _copy_result(kept, target)
            shutil.rmtree(checkpoints, ignore_errors=True)
            return "made"


def adopt_result(entry: Path, stage: str, key: str) -> bool:
    """Take a result that was computed elsewhere into the cache.

    Args:
        entry: its entry in the cache of the other machine.
        stage: train or evaluate.
        key: of the job.

    Returns:
        False if the cache has it already.

    Raises:
        DataError: if the result is damaged or does not belong to the key.
    """
    result, kept = entry / RESULT, paths.CACHE / stage / key
    if not _is_intact(result):
        raise DataError(f"{stage}/{key}: damaged (sha256 differs); copy the results again")
    identity = json.loads((result / IDENTITY).read_text(encoding="utf-8"))
    if digest(identity) != key or identity["stage"] != stage:
        raise DataError(f"{stage}/{key}: the result belongs to another key; make the bundle and the results again")
    kept.mkdir(parents=True, exist_ok=True)
    for name in names_in(entry):
        add_name(kept, name)
    with _job_lock(kept / ".lock"):
        if _is_intact(kept / RESULT):
            return False
        _copy_to_cache(result, kept / RESULT)
    return True


def adopt_checkpoints(entry: Path, stage: str, key: str) -> bool:
    """Take the checkpoints of a job that another machine has not finished; return False if it is finished here."""
    kept = paths.CACHE / stage / key
    kept.mkdir(parents=True, exist_ok=True)
    with _job_lock(kept / ".lock"):
        if _is_intact(kept / RESULT):
            return False
        _copy_to_cache(entry / CHECKPOINTS, kept / CHECKPOINTS)
    return True


def require_result(job: Job, *, suite: str, reads: Collection[str] | None = None) -> None:
    """Verify a finished result that is about to be read; restore missing and damaged files from an intact copy.

    A result without recorded hashes, such as one that a storage provides file by file, is not verified.

    Args:
        job: whose result is read.
        suite: of the job, for the error.
        reads: names of the files that are read; None means all.

    Raises:
        DataError: if a file is missing or damaged and the cache has no intact copy; names the command that remakes it.
    """
    lost = [name for name in restore_result(job) if reads is None or name in (*reads, HASHES)]
    if lost and (job.dir / HASHES).exists():
        raise DataError(f"{describe_damage(job, lost)}; make it again: {remake_command(job, suite)}")


def restore_result(job: Job) -> list[str]:
    """Restore the missing and damaged files of a finished result from an intact copy: in the cache, or under any name.

    Users may delete files, disks may damage them, and a storage provides only those that a rule names. Files unchanged
    since an earlier verification are not read again (see `digests`).

    Returns:
        Names of the files that are still missing or damaged; only that of the recorded hashes if these are.
    """
    lost = _damaged_files(job.dir)
    if lost and (finished := _intact_copy(job)) is not None:
        if (job.dir / HASHES).exists():
            say(f"{describe_damage(job, lost)}; restored from {finished}")
        _copy_result(finished, job.dir)
        lost = []
    save_digests()
    return lost


def describe_damage(job: Job, names: Sequence[str]) -> str:
    """Return which files of a result are missing or damaged."""
    return f"{job.dir}: missing or changed since the job finished (sha256 differs): {', '.join(names)}"


def remake_command(job: Job, suite: str) -> str:
    """Return the command that makes a result again."""
    return f"fewshot {job.stage} {job.name} --suite {suite}"


def is_restorable(job: Job) -> bool:
    """Return whether every file of a job's result exists somewhere; their content is checked when they are restored."""
    return any(map(has_all_files, _copies(job)))


def intact_result(job: Job) -> Path | None:
    """Return a folder that holds the result of a job, unchanged: its own, else one to restore it from; or None."""
    return job.dir if _is_intact(job.dir) else _intact_copy(job)


def _intact_copy(job: Job) -> Path | None:
    """Return a folder that holds the result of a job, unchanged."""
    return next(filter(_is_intact, _copies(job)), None)


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
        if error.errno in DISK_FULL:
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
        if error.errno not in DISK_FULL:
            raise
        raise ResourceError(
            f"the disk is full ({error.filename or paths.CACHE}); free some space ('fewshot prune' lists results that "
            "no suite needs), then rerun: finished work is kept and training resumes from the last checkpoint"
        ) from None


@contextmanager
def _explain_deleted_files(*folders: Path) -> Iterator[None]:
    """Turn a missing file in the folders of a job into an error that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        lost = Path(error.filename or "")
        if not any(lost.is_relative_to(folder) for folder in folders):
            raise
        raise ResourceError(
            f"{lost.parent}: deleted while this job ran; leave cache/ and results/ alone while jobs run, and rerun the "
            "same command"
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
        say(f"{result}: damaged; computing the result again")
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
    return not _damaged_files(result, sha256_of)


def has_all_files(result: Path) -> bool:
    """Return whether every file of a finished result exists, regardless of content."""
    hashes = _recorded_hashes(result)
    return bool(hashes) and all((result / name).exists() for name in hashes)


def _damaged_files(result: Path, digest_of: Callable[[Path], str] = file_digest) -> list[str]:
    """Return the recorded files that are missing or changed; the name of the record itself if it is not readable."""
    hashes = _recorded_hashes(result)
    if not hashes:
        return [HASHES]
    return [name for name, sha256 in hashes.items() if not has_digest(result / name, sha256, digest_of)]


def _recorded_hashes(result: Path) -> dict[str, str]:
    """Return file -> sha256 of a finished result; {} if there is no readable record, or it names files elsewhere."""
    try:
        hashes = dict(json.loads((result / HASHES).read_text(encoding="utf-8")))
        return {} if any(_leads_outside(name) for name in hashes) else hashes
    except (OSError, ValueError, TypeError):
        return {}


def _leads_outside(name: str) -> bool:
    """Return whether a recorded name, which may come from a remote, leads out of its folder."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _copy_result(result: Path, target: Path) -> None:
    """Copy a finished result file by file; each file appears complete or not at all."""
    for name, sha256 in _recorded_hashes(result).items():
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
