"""Digests of plain values, files and folders; file digests can be saved and reused by later processes."""

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from fewshot.errors import DataError
from fewshot.folders import list_folder
from fewshot.paths import CACHE, PACKAGE_DIR

KEY_LENGTH = 12
SAVED_DIGESTS = CACHE / "digests.json"


def digest(value: Any) -> str:
    """Return the key of plain values: the SHA-256 of their canonical JSON, shortened."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def path_digest(path: Path) -> str:
    """Return a digest of a file's content, or of the names and contents of the files in a folder.

    A folder's files are those that a data set reads from it: links are followed, hidden files do not count.

    Raises:
        DataError: if the path does not exist, cannot be read, or contains a folder twice.
    """
    try:
        if path.is_file():
            return _file_digest(path, *_stamp(path))
        if not path.is_dir():
            raise DataError(f"{path}: no such file or folder; correct the path in params.yaml or put the file there")
        files = list_folder(path).files
        return digest({name: _file_digest(file, *_stamp(file)) for name, file in files.items()})
    except OSError as error:
        raise DataError(
            f"{str(error.filename or path)[:200]}: cannot be read: {error.strerror}; "
            "correct the path in params.yaml, or the permissions"
        ) from None


def save_digests() -> None:
    """Save the digests this process computed to `cache/`, so that large files are read only once, not by every job.

    A saved digest is valid while the size, modification time and inode of the file are unchanged.
    """
    if not _computed:
        return
    SAVED_DIGESTS.parent.mkdir(parents=True, exist_ok=True)
    scratch = SAVED_DIGESTS.with_name(f".{SAVED_DIGESTS.name}.{os.getpid()}")
    scratch.write_text(json.dumps({**_saved(), **_computed}), encoding="utf-8")
    scratch.replace(SAVED_DIGESTS)


_computed: dict[str, list[Any]] = {}


@cache
def _saved() -> dict[str, list[Any]]:
    try:
        saved = json.loads(SAVED_DIGESTS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


@cache
def _file_digest(path: Path, *stamp: int) -> str:
    name = os.path.abspath(path)
    saved = _saved().get(name)
    if isinstance(saved, list) and saved[:-1] == list(stamp):
        return str(saved[-1])
    sha256 = sha256_of(path)
    if PACKAGE_DIR not in path.parents:
        _computed[name] = [*stamp, sha256]
    return sha256
