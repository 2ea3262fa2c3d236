"""The files of a user's folder, listed the same way for its key and for reading."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewshot.errors import DataError

HIDDEN = re.compile(r"(^|/)(__MACOSX(/|$)|\.)|(^|/)Thumbs\.db$")


@dataclass(frozen=True)
class Listing:
    """What a folder contains.

    Attributes:
        files: regular files by relative name with forward slashes, sorted.
        folders: relative names of the folders below the root, sorted.
        skipped: kind of entry that is not listed -> count.
    """

    files: Mapping[str, Path]
    folders: tuple[str, ...]
    skipped: Mapping[str, int]


def is_hidden(name: str) -> bool:
    """Return whether a relative name belongs to a hidden file, or to one that desktops leave behind."""
    return HIDDEN.search(name) is not None


def list_folder(root: Path) -> Listing:
    """List the files in a folder and its subfolders; links are followed.

    Raises:
        DataError: if a folder is reached twice, as through a link to a folder above it.
        OSError: if a folder cannot be read.
    """
    files: dict[str, Path] = {}
    folders: list[str] = []
    skipped: Counter[str] = Counter()
    reached: dict[str, str] = {}
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse):
        inside = Path(folder).relative_to(root)
        first = reached.setdefault(os.path.realpath(folder), folder)
        if first != folder:
            raise DataError(f"{folder!r} is the same folder as {first!r} (a link?); remove one of them")
        visible = sorted(name for name in subfolders if not is_hidden(name))
        skipped["hidden folders"] += len(subfolders) - len(visible)
        subfolders[:] = visible
        folders += [(inside / name).as_posix() for name in visible]
        for name in names:
            kind = _kind_to_skip(Path(folder, name))
            if kind is None:
                files[(inside / name).as_posix()] = Path(folder, name)
            else:
                skipped[kind] += 1
    return Listing(dict(sorted(files.items())), tuple(sorted(folders)), +skipped)


def _kind_to_skip(path: Path) -> str | None:
    """Return why a file is not listed, or None if it is."""
    if is_hidden(path.name):
        return "hidden files"
    if path.is_file():
        return None
    return "broken links" if path.is_symlink() else "special files"


def _refuse(error: OSError) -> None:
    raise error
