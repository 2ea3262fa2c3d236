"""Digests of given files are noted in `cache/`, and believed only while the file is the same."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from fewshot import digests
from fewshot.digests import path_digest, remember_digests


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a given file in an empty project folder."""
    monkeypatch.chdir(tmp_path)
    forget()
    file = tmp_path / "archive.tar"
    file.write_bytes(b"pixels")
    yield file
    forget()


def forget() -> None:
    """Be a new process."""
    digests._computed.clear()
    digests._remembered.cache_clear()
    digests._file_digest.cache_clear()


def test_noted_digest_is_used_by_the_next_process(archive: Path) -> None:
    path_digest(archive)
    remember_digests()
    noted = json.loads(digests.REMEMBERED.read_text())
    noted[str(archive)][-1] = "as noted"
    digests.REMEMBERED.write_text(json.dumps(noted))
    forget()

    assert path_digest(archive) == "as noted"


def test_changed_file_is_read_again(archive: Path) -> None:
    path_digest(archive)
    remember_digests()
    forget()
    archive.write_bytes(b"others")
    os.utime(archive, ns=(1, 1))

    assert path_digest(archive) == hashlib.sha256(b"others").hexdigest()


def test_replaced_file_of_the_same_size_and_date_is_read_again(archive: Path) -> None:
    path_digest(archive)
    remember_digests()
    forget()
    dates = archive.stat()
    other = archive.with_name("other")
    other.write_bytes(b"others")
    other.replace(archive)
    os.utime(archive, ns=(dates.st_atime_ns, dates.st_mtime_ns))

    assert path_digest(archive) == hashlib.sha256(b"others").hexdigest()


@pytest.mark.parametrize("damage", ["", "[]", '{"x": 1}', "{"])
def test_damaged_notes_are_ignored(archive: Path, damage: str) -> None:
    digests.REMEMBERED.parent.mkdir()
    digests.REMEMBERED.write_text(damage)

    assert path_digest(archive) == hashlib.sha256(b"pixels").hexdigest()


def test_planning_alone_writes_nothing(archive: Path) -> None:
    path_digest(archive)

    assert not digests.REMEMBERED.exists()
