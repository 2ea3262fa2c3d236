"""Named files read as one set, whether they are in one folder, one archive or several."""

import os
import re
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fewshot.errors import DataError, reason_of

# Raised by the standard library for damaged archives; OSError also for files without read permission.
UNREADABLE = (
    *(OSError, EOFError, NotImplementedError, RuntimeError, struct.error, IndexError),
    *(zlib.error, zipfile.BadZipFile, tarfile.TarError),
)
JUNK = re.compile(r"(^|/)(__MACOSX/|\.)|(^|/)Thumbs\.db$")


class FileSet(ABC):
    """Named files, wherever they are stored; names are relative, with forward slashes."""

    def __init__(self, origin: str, sizes: dict[str, int]) -> None:
        self.origin = origin
        self.sizes = {name: sizes[name] for name in sorted(sizes) if not JUNK.search(name)}

    def names(self) -> list[str]:
        """Return all names, sorted, without hidden files and those that desktops leave behind."""
        return list(self.sizes)

    def where(self, name: str) -> str:
        """Return the place of a file as shown in messages."""
        return f"{self.origin}: {name}" if name in self.sizes else f"{self.origin}/{name}".removesuffix("/.")

    @abstractmethod
    def _open(self, name: str) -> BinaryIO: ...

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for reading and seeking.

        Raises:
            DataError: if the archive turns out to be damaged.
        """
        try:
            with self._open(name) as file:
                yield file
        except UNREADABLE as error:
            reason = reason_of(error) if str(error) else "it ends early"
            raise DataError(f"{self.origin}: cannot read {name!r}: {reason}; fetch it again") from error

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file of at most `limit` bytes."""
        if self.sizes[name] > limit:
            raise DataError(
                f"{self.origin}: {name!r} is {self.sizes[name]:,} bytes long, at most {limit:,} are expected"
            )
        with self.open(name) as file:
            content = file.read(limit + 1)
        if len(content) != self.sizes[name]:
            raise DataError(f"{self.origin}: {name!r} declares {self.sizes[name]:,} bytes, {len(content):,} were read")
        return content


class FolderFiles(FileSet):
    """The files in a user's folder and its subfolders; links are followed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        sizes = {}
        seen = set()
        for folder, subfolders, names in os.walk(root, followlinks=True):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            real = os.path.realpath(folder)
            if real in seen:
                raise DataError(f"{folder} is reached twice (a link to a folder above it?); remove the link")
            seen.add(real)
            for name in names:
                path = Path(folder, name)
                if path.is_file():
                    sizes[path.relative_to(root).as_posix()] = path.stat().st_size
        super().__init__(str(root), sizes)

    def where(self, name: str) -> str:
        """Return the path of a file."""
        return str(self._root / name)

    def _open(self, name: str) -> BinaryIO:
        return open(self._root / name, "rb")


class SingleFile(FileSet):
    """One file that is not an archive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(str(path), {path.name: path.stat().st_size})

    def where(self, name: str) -> str:
        """Return the path of the file."""
        return str(self._path)

    def _open(self, name: str) -> BinaryIO:
        return open(self._path, "rb")


class JoinedFiles(FileSet):
    """Several sets read as one."""

    def __init__(self, parts: Sequence[FileSet]) -> None:
        self._owner: dict[str, FileSet] = {}
        sizes: dict[str, int] = {}
        for part in parts:
            for name, size in part.sizes.items():
                if name in sizes:
                    raise DataError(f"{name!r} is both in {self._owner[name].origin} and in {part.origin}; remove one")
                self._owner[name], sizes[name] = part, size
        super().__init__(", ".join(part.origin for part in parts), sizes)

    def where(self, name: str) -> str:
        """Return the place of a file in its part."""
        return self._owner[name].where(name) if name in self._owner else super().where(name)

    def _open(self, name: str) -> BinaryIO:
        return self._owner[name]._open(name)
