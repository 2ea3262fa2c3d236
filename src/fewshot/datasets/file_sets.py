"""Named files read as one set, whether they are in one folder, one archive or several."""

import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fewshot.datasets.tally import Tally
from fewshot.errors import DataError, reason_of
from fewshot.folders import is_hidden, list_folder

# Raised by the standard library for damaged archives; OSError also for files without read permission.
UNREADABLE = (
    *(OSError, EOFError, NotImplementedError, RuntimeError, struct.error, IndexError),
    *(zlib.error, zipfile.BadZipFile, tarfile.TarError),
)


class FileSet(ABC):
    """Named files, wherever they are stored; names are relative, with forward slashes.

    Attributes:
        origin: file or folder, for errors.
        sizes: bytes by name, sorted, without hidden files.
        tally: what was skipped and converted.
        folders: names of the folders, where known; they may be empty.
    """

    folders: tuple[str, ...] = ()

    def __init__(self, origin: str, sizes: dict[str, int]) -> None:
        self.origin = origin
        self.sizes = {name: sizes[name] for name in sorted(sizes) if not is_hidden(name)}
        self.tally = Tally(skipped=+Counter({"hidden files": len(sizes) - len(self.sizes)}))

    def names(self) -> list[str]:
        """Return all names, sorted, without hidden files and those that desktops leave behind."""
        return list(self.sizes)

    def report_to(self, tally: Tally) -> None:
        """Count in another tally from now on; it takes over what was counted so far."""
        tally.skipped.update(self.tally.skipped)
        self.tally = tally

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
        try:
            listing = list_folder(root)
            self._files = listing.files
            super().__init__(str(root), {name: file.stat().st_size for name, file in listing.files.items()})
        except OSError as error:
            raise DataError(f"{error.filename!r} cannot be read: {error.strerror}; correct its permissions") from None
        self.folders = listing.folders
        self.tally.skipped.update(listing.skipped)

    def where(self, name: str) -> str:
        """Return the path of a file."""
        return str(self._root / name)

    def _open(self, name: str) -> BinaryIO:
        return open(self._files[name], "rb")


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
        self.folders = tuple(folder for part in parts for folder in part.folders)
        for part in parts:
            self.tally.skipped.update(part.tally.skipped)

    def where(self, name: str) -> str:
        """Return the place of a file in its part."""
        return self._owner[name].where(name) if name in self._owner else super().where(name)

    def _open(self, name: str) -> BinaryIO:
        return self._owner[name]._open(name)
