"""A finished result is published atomically, kept in the cache and restored from there; finished work is never lost."""

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fewshot.errors import DataError, ResourceError
from fewshot.workflow.results import is_restorable, names_in, require_result, restore_result, run_job, tidy

TARGET = Path("results/train/job/key")
CACHE = Path("cache/train/key")
IDENTITY = {"stage": "train", "settings": {"seed": 0}}


@dataclass
class Job:
    """What `run_job` uses of a job."""

    name: str = "job"
    key: str = "key"
    results: Path = Path("results")
    stage: str = "train"
    identity: dict = field(default_factory=lambda: IDENTITY)

    @property
    def dir(self):
        return self.results / "train" / self.name / self.key

    @property
    def cache_dir(self):
        return Path("cache/train", self.key)


def write(out, checkpoints):
    (out / "weights").write_text("numbers")
    (out / "ensemble").mkdir()
    (out / "ensemble" / "epoch-1").write_text("more")


def never(out, checkpoints):
    raise AssertionError("the work was repeated")


def run(work=write, **job):
    return run_job(Job(**job), work)


def content(folder):
    """Return the files of a folder that the work wrote."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("sha256.json", "identity.json"))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_result_records_what_its_key_was_digested_from(project):
    run()

    assert json.loads((TARGET / "identity.json").read_text()) == IDENTITY
    assert (CACHE / "result" / "identity.json").read_bytes() == (TARGET / "identity.json").read_bytes()


RESULT = {"weights": "numbers", "ensemble/epoch-1": "more"}


def test_result_is_published_and_kept(project):
    assert run() == "made"

    assert content(TARGET) == RESULT
    assert content(CACHE / "result") == RESULT


def test_finished_result_is_restored_not_recomputed(project):
    run()
    shutil.rmtree("results")

    assert run(never) == "restored"
    assert content(TARGET) == RESULT


def test_result_is_restored_under_any_name(project):
    run()

    assert run(never, name="other") == "restored"
    assert content(Path("results/train/other/key")) == RESULT
    assert names_in(CACHE) == ["job", "other"]


def test_pulled_result_is_restored_under_any_name(project):
    """What DVC pulls is in results/ only, under the name it was recorded with."""
    run()
    shutil.rmtree("cache")
    assert is_restorable(Job(name="other"))

    assert run(never, name="other") == "restored"
    assert content(Path("results/train/other/key")) == RESULT
    assert content(CACHE / "result") == RESULT


def test_damaged_copy_under_another_name_is_not_used(project):
    run()
    shutil.rmtree("cache")
    (TARGET / "weights").write_text("num")

    assert run(name="other") == "made"
    assert content(Path("results/train/other/key")) == RESULT


def test_lost_and_changed_files_are_restored(project):
    run()
    (TARGET / "weights").write_text("changed")
    (TARGET / "ensemble" / "epoch-1").unlink()

    assert run(never) == "restored"
    assert content(TARGET) == RESULT


@pytest.mark.parametrize("lost", ["ensemble/epoch-1", "sha256.json"])
def test_missing_files_are_restored_before_reading(lost, project):
    run()
    (TARGET / lost).unlink()

    assert restore_result(Job()) == []

    assert content(TARGET) == RESULT
    assert (TARGET / "sha256.json").exists()


def test_restore_without_a_cached_result(project):
    assert restore_result(Job()) == ["sha256.json"]

    assert not Path("results").exists()


def flip(file):
    """Change the file without changing its size."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("name", ["weights", "ensemble/epoch-1", "sha256.json", "identity.json"])
def test_damaged_files_are_restored_before_reading(name, project, capsys):
    run()
    before = {path: path.read_bytes() for path in TARGET.rglob("*") if path.is_file()}
    restore_result(Job())
    flip(TARGET / name)

    require_result(Job(), suite="tiny")

    assert {path: path.read_bytes() for path in TARGET.rglob("*") if path.is_file()} == before
    assert f"sha256 differs): {name}; restored from cache/train/key/result" in capsys.readouterr().err


def test_damaged_files_without_an_intact_copy_are_refused(project):
    run()
    for root in (TARGET, CACHE / "result"):
        flip(root / "weights")

    with pytest.raises(DataError, match=r"sha256 differs\): weights; make it again: fewshot train job --suite tiny"):
        require_result(Job(), suite="tiny")
    require_result(Job(), suite="tiny", reads=["ensemble/epoch-1"])
    assert run() == "made"
    require_result(Job(), suite="tiny")


def test_files_without_recorded_hashes_are_not_verified(project):
    TARGET.mkdir(parents=True)
    (TARGET / "weights").write_text("from a storage")

    require_result(Job(), suite="tiny")

    assert content(TARGET) == {"weights": "from a storage"}


@pytest.mark.parametrize("damage", [lambda: shutil.rmtree("cache"), lambda: flip(CACHE / "result" / "weights")])
def test_intact_result_is_copied_to_the_cache_not_recomputed(damage, project):
    run()
    damage()

    assert run(never) == "restored"
    assert content(CACHE / "result") == content(TARGET) == RESULT


def test_damage_in_the_cache_is_reported(project, capsys):
    run()
    shutil.rmtree("results")
    flip(CACHE / "result" / "weights")

    assert run() == "made"
    assert "cache/train/key/result: damaged; computing the result again" in capsys.readouterr().err


def test_results_can_have_another_root(project):
    run(results=Path("storage/results"))

    assert content("storage" / TARGET) == RESULT
    assert not Path("results").exists()


def test_concurrent_jobs_do_the_work_once(project):
    started = threading.Barrier(2)
    done = []

    def slow(out, checkpoints):
        done.append(1)
        time.sleep(0.2)
        write(out, checkpoints)

    def job(_):
        started.wait()
        return run(slow)

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(job, range(2)))

    assert outcomes == ["made", "restored"]
    assert done == [1]


@pytest.mark.parametrize("damage", ["truncated", "missing", "no hashes", "broken hashes", "hashes of nothing"])
def test_damaged_cache_is_not_used(damage, project):
    run()
    shutil.rmtree("results")
    result = CACHE / "result"
    if damage == "truncated":
        (result / "weights").write_text("num")
    elif damage == "missing":
        (result / "weights").unlink()
    else:
        (result / "sha256.json").write_text(
            {"no hashes": "", "broken hashes": "[1]", "hashes of nothing": "{}"}[damage]
        )

    assert run() == "made"
    assert content(TARGET) == RESULT
    assert content(CACHE / "result") == RESULT


def test_damaged_cache_is_not_listed_as_restorable_again(project):
    """Even if the work then fails, the next plan must not promise a restore."""
    run()
    shutil.rmtree("results")
    (CACHE / "result" / "weights").write_text("num")
    assert is_restorable(Job())

    def crash(out, checkpoints):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(crash)
    assert not is_restorable(Job())


def test_crash_leaves_no_result_but_the_checkpoints(project):
    def crash(out, checkpoints):
        (out / "weights").write_text("half")
        (checkpoints / "checkpoint.pt").write_text("state")
        raise RuntimeError("killed")

    def resume(out, checkpoints):
        assert not any(out.iterdir())
        assert (checkpoints / "checkpoint.pt").read_text() == "state"
        write(out, checkpoints)

    with pytest.raises(RuntimeError, match="killed"):
        run(crash)
    assert content(TARGET) == {}

    assert run(resume) == "made"
    assert content(TARGET) == RESULT
    assert not (CACHE / "checkpoints").exists()


@pytest.mark.parametrize("moment", ["pathlib.Path.rename", "shutil.copyfile"])
def test_crash_while_publishing(moment, project, monkeypatch):
    def crash(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(moment, crash)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert content(TARGET) == {}

    run()
    assert content(TARGET) == RESULT


def test_no_file_appears_half_written(project, monkeypatch):
    seen = []
    copy = shutil.copyfile
    monkeypatch.setattr("shutil.copyfile", lambda source, place: seen.append(Path(place).name) or copy(source, place))

    run()

    assert all(name.startswith(".") for name in seen)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(project):
    Path("results").mkdir(mode=0o555)

    with pytest.raises(ResourceError, match=r"results/train/job/key: cannot be written \(Permission denied\)"):
        run()


def refuse(code):
    def touch(self, *arguments, **settings):
        raise OSError(code, os.strerror(code), str(self))

    return touch


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_unwritable_folder_is_detected_before_the_work(code, project, monkeypatch):
    monkeypatch.setattr("pathlib.Path.touch", refuse(code))

    with pytest.raises(ResourceError, match=r"cache/train/key: cannot be written .*fix its permissions"):
        run(never)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_at_the_start(code, project, monkeypatch):
    monkeypatch.setattr("pathlib.Path.touch", refuse(code))

    with pytest.raises(ResourceError, match=r"the disk is full .*free some space"):
        run(never)


def test_a_recorded_name_with_a_null_byte_is_that_of_a_missing_file(project):
    run()
    (TARGET / "sha256.json").write_text(json.dumps({"a\0b": "0" * 64}))
    shutil.rmtree(CACHE)

    assert restore_result(Job()) == ["a\0b"]


@pytest.mark.parametrize("name", ["../../outside", "/outside"])
def test_a_record_that_names_files_elsewhere_is_not_restored(name, project):
    """A record may come from a remote."""
    run()
    shutil.rmtree(TARGET)
    kept = CACHE / "result"
    (kept / name.lstrip("/")).write_text("secret")
    (kept / "sha256.json").write_text(json.dumps({name: hashlib.sha256(b"secret").hexdigest()}))

    restore_result(Job())

    assert not TARGET.exists()


def test_full_disk_during_the_work_keeps_the_checkpoint(project):
    def fill(out, checkpoints):
        (checkpoints / "checkpoint.pt").write_text("state")
        raise OSError(errno.ENOSPC, "No space left on device", "weights")

    with pytest.raises(ResourceError, match=r"the disk is full \(weights\)"):
        run(fill)
    assert (CACHE / "checkpoints" / "checkpoint.pt").read_text() == "state"


def test_a_folder_deleted_during_the_work_is_an_error_that_names_it(project):
    def delete(out, checkpoints):
        shutil.rmtree(CACHE)
        (out / "weights").write_text("late")

    with pytest.raises(ResourceError, match=r"cache/train/key/partial: deleted while this job ran"):
        run(delete)
    assert run() == "made"


def test_a_missing_file_elsewhere_is_raised_unchanged(project):
    def read(out, checkpoints):
        Path("elsewhere/images").read_text()

    with pytest.raises(FileNotFoundError):
        run(read)


def test_other_errors_are_raised_unchanged(project):
    def fail(out, checkpoints):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        run(fail)


def test_file_in_place_of_the_results_folder(project):
    Path("results").write_text("a file")

    with pytest.raises(ResourceError, match="cannot be written"):
        run()


def test_tidy_moves_results_of_other_suites(project):
    run()
    run(name="other", key="second")

    assert tidy(Path("results"), "train", {TARGET}) == [Path("results/train/other/second")]

    assert content(TARGET) == RESULT
    assert not Path("results/train/other").exists()
    assert run(never, name="other", key="second") == "restored"


def test_tidy_keeps_results_without_a_cached_copy(project):
    run()
    shutil.rmtree("cache")

    tidy(Path("results"), "train", set())

    assert not TARGET.exists()
    assert names_in(CACHE) == ["job"]
    assert run(never) == "restored"
    assert content(TARGET) == RESULT


def test_tidy_stores_an_incomplete_result_apart(project):
    run()
    shutil.rmtree("cache")
    (TARGET / "weights").unlink()

    tidy(Path("results"), "train", set())

    assert content(CACHE / "incomplete") == {"ensemble/epoch-1": "more"}
    assert run() == "made"
    assert content(TARGET) == RESULT


def test_tidy_keeps_the_checkpoints_of_an_unfinished_job(project):
    run()
    shutil.rmtree(CACHE / "result")
    (CACHE / "checkpoints").mkdir()
    (CACHE / "checkpoints" / "checkpoint.pt").write_text("state")

    tidy(Path("results"), "train", set())

    assert (CACHE / "checkpoints" / "checkpoint.pt").read_text() == "state"


def test_tidy_without_results(project):
    assert tidy(Path("results"), "train", set()) == []


def test_tidy_leaves_other_files(project):
    Path("results/train/job").mkdir(parents=True)
    Path("results/train/job/note.txt").write_text("mine")

    tidy(Path("results"), "train", set())

    assert Path("results/train/job/note.txt").read_text() == "mine"
