"""Untrusted archives, opened together with folders and single files as one set of named files.

Members are read in place and never extracted, so no name, link or device in an archive can touch the disk. An archive
that contains such members is refused all the same: it is not the data set. A compressed tar is first decompressed into
one temporary file, up to a limit.
"""

import bz2
import gzip
import io
import itertools
import logging
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fewshot.datasets.file_sets import UNREADABLE, FileSet, FolderFiles, JoinedFiles, SingleFile
from fewshot.errors import DataError, ResourceError, reason_of

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20
MAX_NAME_LENGTH = 1000
OPENERS: dict[str, Callable[..., Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
ARCHIVES = ("zip", "tar", *OPENERS)
SIGNATURES = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
}
UNSUPPORTED = ("7z", "rar", "zstd")
ACCEPTED = "zip, tar, tar.gz, tar.bz2 or tar.xz"
TEXTS = (".txt", ".md", ".json", ".csv", ".html", ".pdf", "readme", "license")


@dataclass(frozen=True)
class Limits:
    """What an archive may contain: enough for the data set it claims to be."""

    members: int = 2_000_000
    total_bytes: int = 4 << 30


class ZipFiles(FileSet):
    """The members of a zip archive."""

    def __init__(self, path: Path, limits: Limits, stack: ExitStack) -> None:
        try:
            self._archive = stack.enter_context(zipfile.ZipFile(path))
        except (*UNREADABLE, ValueError) as error:
            raise DataError(f"{path} is not a complete zip archive ({reason_of(error)}); fetch it again") from error
        members = self._archive.infolist()
        check_overlap(path, members)
        self._names = {}
        sizes: dict[str, int] = {}
        for member in members:
            check_member_name(path, member.filename.removesuffix("/"))
            if member.is_dir():
                continue
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise DataError(f"{path}: {member.filename!r} is a link or device, not a file; archive refused")
            if member.flag_bits & 0x1:
                raise DataError(f"{path}: {member.filename!r} is encrypted; archive refused")
            add_member(path, sizes, member.filename, member.file_size, limits)
            self._names[member.filename] = member
        super().__init__(str(path), sizes)

    def _open(self, name: str) -> BinaryIO:
        return self._archive.open(self._names[name])  # type: ignore[return-value]


def check_overlap(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse a zip whose members share compressed bytes, as in zip bombs."""
    ordered = sorted(members, key=lambda member: member.header_offset)
    for first, second in itertools.pairwise(ordered):
        if first.header_offset + first.compress_size > second.header_offset:
            raise DataError(f"{path}: {first.filename!r} and {second.filename!r} overlap; archive refused")


class BoundedTarInfo(tarfile.TarInfo):
    """A tar header that refuses oversized extended headers (long names, attributes) before reading them."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if not self.isreg() and self.size > MAX_HEADER_BYTES:
            raise DataError(f"{archive.name!r}: a header of {self.size:,} bytes; archive refused")
        return super()._proc_member(archive)  # type: ignore[misc]


class TarFiles(FileSet):
    """The members of an uncompressed tar, indexed in one pass over its headers."""

    def __init__(self, path: Path, origin: Path, limits: Limits) -> None:
        self._path = path
        self._spans: dict[str, tuple[int, int]] = {}
        sizes: dict[str, int] = {}
        length = path.stat().st_size
        try:
            with tarfile.open(path, "r:", tarinfo=BoundedTarInfo) as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # do not keep a million headers in memory
                    if member.isdir():
                        check_member_name(origin, member.name)
                        continue
                    if not member.isreg() or member.issparse():
                        raise DataError(f"{origin}: {member.name!r} is a link, device or sparse file; archive refused")
                    add_member(origin, sizes, member.name, member.size, limits)
                    if member.offset_data + member.size > length:
                        raise DataError(f"{origin} ends in the middle of {member.name!r}; fetch it again")
                    self._spans[member.name] = (member.offset_data, member.size)
        except (*UNREADABLE, ValueError) as error:
            raise DataError(f"{origin} is not a complete tar archive ({reason_of(error)}); fetch it again") from error
        super().__init__(str(origin), sizes)

    def _open(self, name: str) -> BinaryIO:
        return io.BufferedReader(_Span(self._path, *self._spans[name]))


class _Span(io.RawIOBase):
    """A range of a file, read as a file of its own."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._start, self._length, self._position = start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        wanted = max(0, min(len(buffer), self._length - self._position))
        self._file.seek(self._start + self._position)
        count = self._file.readinto(memoryview(buffer)[:wanted]) or 0
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def add_member(path: Path, sizes: dict[str, int], name: str, size: int, limits: Limits) -> None:
    """Add a member to `sizes` (name -> bytes) if its name is safe and the archive stays within the limits.

    Raises:
        DataError: otherwise.
    """
    check_member_name(path, name)
    if size < 0:
        raise DataError(f"{path}: {name!r} declares {size} bytes; archive refused")
    if name in sizes:
        raise DataError(f"{path}: {name!r} occurs twice; archive refused")
    sizes[name] = size
    if size > limits.total_bytes or len(sizes) > limits.members:
        raise DataError(
            f"{path}: member {len(sizes):,}, {name!r} of {size:,} bytes, exceeds the limits of this data set; "
            "archive refused"
        )
    if len(sizes) % 1000 == 0 or size > CHUNK_BYTES:
        check_total(path, sizes, limits)


def check_total(path: Path, sizes: dict[str, int], limits: Limits) -> None:
    """Refuse an archive whose declared sizes exceed the limit."""
    total = sum(sizes.values())
    if total > limits.total_bytes:
        raise DataError(
            f"{path} unpacks to more than {total:,} bytes, this data set has at most {limits.total_bytes:,}; refused"
        )


def check_member_name(path: Path, name: str) -> None:
    """Refuse names that point outside the archive or are not valid file names.

    Raises:
        DataError: with the reason.
    """
    parts = name.split("/")
    reason = None
    if not name or len(name) > MAX_NAME_LENGTH:
        reason = "is empty or too long"
    elif name.startswith("/") or re.match(r"^[A-Za-z]:", name) or "\\" in name:
        reason = "is an absolute path or not a POSIX path"
    elif ".." in parts:
        reason = "leads out of the archive"
    elif any(ord(character) < 32 for character in name):
        reason = "contains control characters"
    if reason:
        raise DataError(f"{path}: the member name {name[:100]!r} {reason}; archive refused")


@contextmanager
def open_files(paths: Sequence[Path], scratch: Path, limits: Limits) -> Iterator[FileSet]:
    """Open files, archives or folders as one set.

    Args:
        paths: files, archives (zip, tar, tar.gz, tar.bz2, tar.xz), folders of files, or folders of archives only.
        scratch: folder for decompressed tars, which are removed afterwards.
        limits: what an archive may contain.

    Raises:
        DataError: if a path is missing, a web page, or an archive that is damaged or refused.
        ResourceError: if there is too little disk space to decompress.
    """
    with ExitStack() as stack:
        parts = [part for path in paths for part in _open_path(path, scratch, limits, stack)]
        yield parts[0] if len(parts) == 1 else JoinedFiles(parts)


def _open_path(path: Path, scratch: Path, limits: Limits, stack: ExitStack) -> Iterator[FileSet]:
    if path.is_dir():
        folder = FolderFiles(path)
        kinds = (*ARCHIVES, *UNSUPPORTED)
        archives = [name for name in folder.names() if "/" not in name and _kind(path / name) in kinds]
        unpacked = [name for name in folder.names() if name not in archives and not name.lower().endswith(TEXTS)]
        if unpacked:  # the archives were extracted next to themselves
            if archives:
                log.warning("%s: files are read, and the archives next to them are not: %s", path, ", ".join(archives))
            archives = []
        for name in archives:
            yield _open_archive(path / name, scratch, limits, stack)
        if not archives:
            yield folder
    elif path.is_file():
        yield _open_archive(path, scratch, limits, stack)
    else:
        raise DataError(f"{path} does not exist; correct the path in section prepare of params.yaml")


def _open_archive(path: Path, scratch: Path, limits: Limits, stack: ExitStack) -> FileSet:
    kind = _kind(path)
    if kind == "page":
        raise DataError(f"{path} is a web page, not data: the server sent an error or login page; fetch it again")
    if kind == "zip":
        files = ZipFiles(path, limits, stack)
        check_total(path, files.sizes, limits)
        return files
    if kind in UNSUPPORTED:
        raise DataError(f"{path} is a {kind} archive; accepted: {ACCEPTED}. Extract it and set the path to the folder")
    if kind in OPENERS:
        plain = decompress(path, kind, scratch / f"{path.name}.tar", limits)
        stack.callback(plain.unlink, missing_ok=True)
        check_is_tar(plain, path, kind)
        tar = TarFiles(plain, path, limits)
    elif kind == "tar":
        tar = TarFiles(path, path, limits)
    else:
        return SingleFile(path)
    check_total(path, tar.sizes, limits)
    return tar


def check_is_tar(plain: Path, path: Path, kind: str) -> None:
    """Raise `DataError` unless `plain`, the decompressed content of `path`, is a tar."""
    if tarfile.is_tarfile(plain):
        return
    inside = content_kind(first_bytes(plain))
    if inside == "page":
        raise DataError(f"{path} contains a web page, not data; fetch it again")
    what = "a single file" if inside == "file" else f"a {inside} archive"
    raise DataError(
        f"{path} contains {what} compressed with {kind}, not a tar archive; decompress it and set the path to "
        "the result"
    )


def _kind(path: Path) -> str:
    """Return the kind of a file, judged by its first bytes because names can be wrong."""
    kind = content_kind(first_bytes(path))
    if kind == "file" and path.suffix == ".tar":
        return "tar"
    return "file" if kind == "zip" and path.suffix == ".npz" else kind


def first_bytes(path: Path) -> bytes:
    """Return the first 512 bytes of a file."""
    with open(path, "rb") as file:
        return file.read(512)


def content_kind(start: bytes) -> str:
    """Return "page", "tar", another kind of archive, or "file", judged by the first 512 bytes."""
    if looks_like_page(start):
        return "page"
    if start[257:262] == b"ustar":
        return "tar"
    return next((kind for signature, kind in SIGNATURES.items() if start.startswith(signature)), "file")


def looks_like_page(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of a web page."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    return text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<script"))


def decompress(path: Path, kind: str, target: Path, limits: Limits) -> Path:
    """Decompress a gzip, bzip2 or xz file, up to the limit.

    Raises:
        DataError: if it is damaged or longer than the limit.
        ResourceError: if there is too little disk space.
    """
    written = 0
    free = shutil.disk_usage(target.parent).free
    try:
        with OPENERS[kind](path, "rb") as source, open(target, "wb") as out:
            while chunk := source.read(CHUNK_BYTES):
                written += len(chunk)
                if written > limits.total_bytes:
                    raise DataError(f"{path} unpacks to more than {limits.total_bytes:,} bytes; refused")
                if written > free:
                    raise ResourceError(
                        f"{target.parent} has {free / 1e9:.2f} GB free, too little to decompress {path}"
                    )
                out.write(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, OSError) as error:
        target.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be decompressed ({reason_of(error)}); fetch it again") from error
    except (DataError, ResourceError):
        target.unlink(missing_ok=True)
        raise
    return target
