"""Digests of plain values, files and folders; those of large files are remembered between processes."""

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from fewshot.errors import DataError
from fewshot.paths import CACHE, PACKAGE_DIR

KEY_LENGTH = 12
REMEMBERED = CACHE / "digests.json"


def digest(value: Any) -> str:
    """Return the key of plain values: sha256 of their canonical JSON, shortened."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal text."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def path_digest(path: Path) -> str:
    """Return a digest of a file's content, or of a folder's file names and contents.

    Raises:
        DataError: if there is nothing at the path.
    """
    try:
        if path.is_file():
            return _file_digest(path, *_stamp(path))
        if not path.is_dir():
            raise DataError(f"{path}: nothing is there; correct the path in params.yaml or put the file there")
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest({file.relative_to(path).as_posix(): _file_digest(file, *_stamp(file)) for file in files})
    except OSError as error:
        raise DataError(
            f"{str(path)[:200]}: cannot be read: {error.strerror}; correct the path in params.yaml"
        ) from None


def remember_digests() -> None:
    """Note the digests computed by this process in `cache/`, so that large files are read once and not by every job.

    A noted digest holds as long as size, modification time and inode of the file are the same.
    """
    if not _computed:
        return
    REMEMBERED.parent.mkdir(parents=True, exist_ok=True)
    scratch = REMEMBERED.with_name(f".{REMEMBERED.name}.{os.getpid()}")
    scratch.write_text(json.dumps({**_remembered(), **_computed}), encoding="utf-8")
    scratch.replace(REMEMBERED)


_computed: dict[str, list[Any]] = {}


@cache
def _remembered() -> dict[str, list[Any]]:
    try:
        noted = json.loads(REMEMBERED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


@cache
def _file_digest(path: Path, *stamp: int) -> str:
    name = os.path.abspath(path)
    noted = _remembered().get(name)
    if isinstance(noted, list) and noted[:-1] == list(stamp):
        return str(noted[-1])
    sha256 = sha256_of(path)
    if PACKAGE_DIR not in path.parents:
        _computed[name] = [*stamp, sha256]
    return sha256
