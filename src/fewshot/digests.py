"""Digests of plain values, files and folders; file digests can be saved and reused by later processes.

With the environment variable `FEWSHOT_VERIFY=1` every file is read again, for damage that left its size and times as
they were.
"""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fewshot.errors import DataError
from fewshot.paths import CACHE, PACKAGE_DIR

KEY_LENGTH = 12
SAVED_DIGESTS = CACHE / "digests.json"
RECORDED = Path("data/recorded.json")  # in a bundle: what keys depend on and the other machine does not have
ALWAYS_READ = "FEWSHOT_VERIFY"  # environment variable; if set, saved digests are not used


def digest(value: Any) -> str:
    """Return the key of plain values: the SHA-256 of their canonical JSON, shortened."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def sha256_of(file: Path, start: int = 0) -> str:
    """Return the SHA-256 of a file's content from byte `start` on, in hexadecimal."""
    with file.open("rb") as opened:
        opened.seek(start)
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
            if (found := recorded("files").get(str(path))) is not None:
                return found
            raise DataError(f"{path}: no such file or folder; correct the path or put the file there")
        from fewshot.folders import list_folder  # only here, so that no job without a folder depends on its code

        files = list_folder(path).files
        return digest({name: _file_digest(file, *_stamp(file)) for name, file in files.items()})
    except OSError as error:
        raise DataError(
            f"{str(error.filename or path)[:200]}: cannot be read: {error.strerror}; "
            "correct the path, or the permissions"
        ) from None


def recorded(what: str) -> dict[str, str]:
    """Return what keys depend on and was left on the machine that made a bundle; {} unless this is from a bundle.

    Args:
        what: "files": digests by path as in params.yaml; "packages": versions by name.
    """
    return _read_recorded().get(what, {})


@cache
def _read_recorded() -> dict[str, dict[str, str]]:
    try:
        return dict(json.loads(RECORDED.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def file_digest(path: Path, start: int = 0) -> str:
    """Return the SHA-256 of a file's content from byte `start` on.

    A file is read again only if its size, modification time or inode have changed, or if `FEWSHOT_VERIFY` is set.

    Raises:
        OSError: if the file cannot be read.
    """
    return _file_digest(path, *_stamp(path), start=start)


def has_digest(file: Path, sha256: str, digest_of: Callable[[Path], str] = sha256_of) -> bool:
    """Return whether a file exists and has this SHA-256.

    Args:
        file: path of the file.
        sha256: in hexadecimal.
        digest_of: computes the SHA-256; `file_digest` trusts what was saved, `sha256_of` reads the file.
    """
    try:
        return digest_of(file) == sha256
    except (OSError, ValueError):  # ValueError for a name with a null byte
        return False


def save_digests() -> None:
    """Save the digests this process computed to `cache/`, so that large files are read only once, not by every job.

    A saved digest is valid while the size, modification time and inode of the file are unchanged. If they cannot be
    saved (disk full, folder read-only), later processes compute them again.
    """
    if not _computed:
        return
    files = {**_read_saved(), **_computed}
    scratch = SAVED_DIGESTS.with_name(f".{SAVED_DIGESTS.name}.{os.getpid()}")
    try:
        SAVED_DIGESTS.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps({"digest": digest(files), "files": files}), encoding="utf-8")
        scratch.replace(SAVED_DIGESTS)
        _computed.clear()
    except OSError:
        with suppress(OSError):
            scratch.unlink()


_computed: dict[str, list[Any]] = {}


@cache
def _saved() -> dict[str, list[Any]]:
    """Return the saved digests by file; none if every file is to be read again."""
    return {} if os.environ.get(ALWAYS_READ) else _read_saved()


def _read_saved() -> dict[str, list[Any]]:
    """Return the saved digests; {} if they are missing or damaged."""
    try:
        saved = json.loads(SAVED_DIGESTS.read_text(encoding="utf-8"))
        files: dict[str, list[Any]] = saved["files"]
        return files if saved["digest"] == digest(files) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


@cache
def _file_digest(path: Path, *stamp: int, start: int = 0) -> str:
    name = os.path.abspath(path) + (f" from byte {start}" if start else "")
    saved = _saved().get(name)
    if isinstance(saved, list) and saved[:-1] == list(stamp):
        return str(saved[-1])
    sha256 = sha256_of(path, start)
    if PACKAGE_DIR not in path.parents:
        _computed[name] = [*stamp, sha256]
    return sha256
