"""Digests of user files are saved in `cache/`, and used only while the file is unchanged."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from fewshot import digests
from fewshot.digests import file_digest, path_digest, save_digests


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user file in an empty project folder."""
    monkeypatch.chdir(tmp_path)
    forget()
    file = tmp_path / "archive.tar"
    file.write_bytes(b"pixels")
    yield file
    forget()


def forget() -> None:
    """Drop what is in memory, as in a new process."""
    digests._computed.clear()
    digests._saved.cache_clear()
    digests._file_digest.cache_clear()


PIXELS = hashlib.sha256(b"pixels").hexdigest()


def save_as(file: Path, sha256: str, forgetting: bool = True) -> None:
    """Save a digest for a file as another process would."""
    status = file.stat()
    files = {str(file): [status.st_size, status.st_mtime_ns, status.st_ino, sha256]}
    digests.SAVED_DIGESTS.parent.mkdir(exist_ok=True)
    digests.SAVED_DIGESTS.write_text(json.dumps({"digest": digests.digest(files), "files": files}))
    if forgetting:
        forget()


def test_saved_digest_is_used_by_the_next_process(archive: Path) -> None:
    save_as(archive, "as saved")

    assert path_digest(archive) == "as saved"


def test_every_file_is_read_if_asked_for(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_as(archive, "as saved")
    monkeypatch.setenv("FEWSHOT_VERIFY", "1")

    assert path_digest(archive) == PIXELS


def test_changed_saved_digest_is_not_used(archive: Path) -> None:
    path_digest(archive)
    save_digests()
    forget()
    text = digests.SAVED_DIGESTS.read_text()
    digests.SAVED_DIGESTS.write_text(text.replace(PIXELS, PIXELS[::-1]))

    assert path_digest(archive) == PIXELS


def test_digests_saved_by_another_process_are_kept(archive: Path) -> None:
    other = archive.with_name("other")
    other.write_bytes(b"others")
    digests._saved()  # nothing is saved yet
    save_as(other, "as saved", forgetting=False)
    path_digest(archive)
    save_digests()
    forget()

    assert (path_digest(other), path_digest(archive)) == ("as saved", PIXELS)


def test_digest_from_a_byte_on_is_that_of_the_rest(archive: Path) -> None:
    assert file_digest(archive, 3) == hashlib.sha256(b"els").hexdigest()
    assert file_digest(archive) == PIXELS


def test_changed_file_is_read_again(archive: Path) -> None:
    path_digest(archive)
    save_digests()
    forget()
    archive.write_bytes(b"others")
    os.utime(archive, ns=(1, 1))

    assert path_digest(archive) == hashlib.sha256(b"others").hexdigest()


def test_replaced_file_of_the_same_size_and_time_is_read_again(archive: Path) -> None:
    path_digest(archive)
    save_digests()
    forget()
    times = archive.stat()
    other = archive.with_name("other")
    other.write_bytes(b"others")
    other.replace(archive)
    os.utime(archive, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert path_digest(archive) == hashlib.sha256(b"others").hexdigest()


@pytest.mark.parametrize("damage", ["", "[]", '{"x": 1}', "{", '{"digest": 1, "files": []}'])
def test_damaged_saved_digests_are_ignored(archive: Path, damage: str) -> None:
    digests.SAVED_DIGESTS.parent.mkdir()
    digests.SAVED_DIGESTS.write_text(damage)

    assert path_digest(archive) == PIXELS


def test_planning_alone_writes_nothing(archive: Path) -> None:
    path_digest(archive)

    assert not digests.SAVED_DIGESTS.exists()


def test_digests_that_cannot_be_saved_are_computed_again(archive: Path) -> None:
    Path("cache").write_text("no folder")
    expected = path_digest(archive)

    save_digests()

    forget()
    assert path_digest(archive) == expected
