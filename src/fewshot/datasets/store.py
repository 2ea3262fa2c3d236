"""The prepared form of every data set: one memory-mapped uint8 array per split, with a hash of the content.

<directory>/store.json                            classes, sizes, hashes, duplicates, provenance
<directory>/<split>.npy, <split>.sources.txt      see `split_files`
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fewshot.datasets import SPLITS
from fewshot.datasets.split_files import (
    SplitPlan,
    SplitRecord,
    check_split,
    find_duplicates,
    open_images,
    prepare_again,
    sources_file,
    write_split,
)
from fewshot.digests import sha256_of
from fewshot.errors import DataError
from fewshot.files import WRITE_REFUSED, cannot_write

__all__ = ["JoinedImages", "SplitPlan", "SplitStore", "Store", "is_store", "open_store", "write_store"]

FORMAT = 2
RECORD = "store.json"
SEAL = "sha256"  # key in the record: the hash of everything else in it


class JoinedImages:
    """Two image arrays read as one without copying: rows of the second follow those of the first."""

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        self._parts = (first, second)
        self.shape = (len(first) + len(second), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return a copy of the rows given by an integer, a slice or an integer array (negative: from the end)."""
        wanted = np.arange(len(self))[rows]
        first, second = self._parts
        flat = wanted.reshape(-1)
        picked = np.empty((len(flat), *self.shape[1:]), self.dtype)
        in_first = flat < len(first)
        picked[in_first] = first[flat[in_first]]
        picked[~in_first] = second[flat[~in_first] - len(first)]
        return picked.reshape(*wanted.shape, *self.shape[1:])


@dataclass(frozen=True, eq=False)
class SplitStore:
    """One split, ready for episodes.

    Attributes:
        name: name of the split.
        images: (N, H, W, C) uint8, sorted by class; a memory map, or a virtual union of two.
        class_names: in the order of the labels.
        class_sizes: (classes,) int64, images of each class.
        source_files: text files with one source id per line, in the order of the images.
    """

    name: str
    images: np.ndarray | JoinedImages
    class_names: tuple[str, ...]
    class_sizes: np.ndarray
    source_files: tuple[Path, ...]

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @cached_property
    def class_starts(self) -> np.ndarray:
        """First row of each class, (classes,) int64."""
        return np.cumsum(self.class_sizes) - self.class_sizes

    @cached_property
    def labels(self) -> np.ndarray:
        """Class of each image, (N,) int64."""
        return np.repeat(np.arange(len(self.class_sizes), dtype=np.int64), self.class_sizes)

    @cached_property
    def source_ids(self) -> list[str]:
        """Origin of each image; read on first access."""
        return [line for file in self.source_files for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


@dataclass(frozen=True, eq=False)
class Store:
    """A prepared data set.

    Attributes:
        dataset: name of the data set.
        directory: folder of the store.
        splits: "train", "validation", "test".
        content_hash: SHA-256 over class names, sizes and pixels of all splits.
        record: content of `store.json`, including `duplicates` and `provenance`.
    """

    dataset: str
    directory: Path
    splits: dict[str, SplitStore]
    content_hash: str
    record: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        height, width, channels = next(iter(self.splits.values())).images.shape[1:]
        return height, width, channels

    def split(self, name: str) -> SplitStore:
        """Return a split; "trainval" is the union of train and validation, with the classes of train first.

        Raises:
            DataError: if there is no such split.
        """
        if name in self.splits:
            return self.splits[name]
        if name == "trainval":
            return _join(self.splits["train"], self.splits["validation"])
        raise DataError(f"data set {self.dataset!r} has no split {name!r}; allowed: {', '.join(self.splits)}, trainval")


def _join(first: SplitStore, second: SplitStore) -> SplitStore:
    assert isinstance(first.images, np.ndarray)
    assert isinstance(second.images, np.ndarray)
    return SplitStore(
        "trainval",
        JoinedImages(first.images, second.images),
        first.class_names + second.class_names,
        np.concatenate([first.class_sizes, second.class_sizes]),
        first.source_files + second.source_files,
    )


def write_store(
    directory: Path,
    dataset: str,
    image_shape: tuple[int, int, int],
    splits: Iterable[SplitPlan],
    provenance: dict[str, Any] | None = None,
) -> Store:
    """Write a store image by image and move it into place when it is complete.

    An unfinished or damaged store in `directory` is replaced.

    Args:
        directory: folder of the store; its parent is created if missing.
        dataset: name of the data set.
        image_shape: (H, W, C) that every image must have.
        splits: train, validation and test.
        provenance: files and checksums the images came from; recorded, not hashed. It is read after the splits, so
            it may contain what reading them fills in.

    Raises:
        DataError: if the splits are incomplete or inconsistent.
        ResourceError: if the disk is full or not writable.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        records, digests = {}, {}
        for plan in splits:
            records[plan.name], digests[plan.name] = write_split(partial, plan, image_shape)
        _check_splits(records)
        record = {
            "format": FORMAT,
            "dataset": dataset,
            "content_hash": _content_hash(records),
            "splits": {name: asdict(split) for name, split in records.items()},
            "duplicates": find_duplicates(partial, digests),
            "provenance": provenance or {},
            "sources": {name: sha256_of(sources_file(partial, name)) for name in records},
        }
        text = json.dumps({**record, SEAL: _hash_of(record)}, indent=1, ensure_ascii=False)
        (partial / RECORD).write_text(text, encoding="utf-8", errors="backslashreplace")  # \udce9 is an escape of JSON
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(partial, directory)
    except OSError as error:
        if error.errno not in WRITE_REFUSED:
            raise
        raise cannot_write(directory, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_store(directory)


def open_store(directory: Path) -> Store:
    """Open a store and verify its files; those that are unchanged since an earlier verification are not read again.

    Args:
        directory: folder of the store.

    Raises:
        DataError: if something is missing, damaged, or of another shape or type.
    """
    record = _read_record(directory)
    try:
        records = {name: SplitRecord(**fields) for name, fields in record["splits"].items()}
        content_hash, dataset, sources = record["content_hash"], record["dataset"], record["sources"]
        if content_hash != _content_hash(records):
            raise DataError(f"{directory / RECORD}: its content hash does not match; {prepare_again(directory)}")
        _check_splits(records)
        splits = {name: _open_split(directory, name, split, sources[name]) for name, split in records.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{directory / RECORD} is incomplete ({error}); {prepare_again(directory)}") from error
    return Store(dataset, directory, splits, content_hash, record)


def is_store(directory: Path) -> bool:
    """Return whether there is a store in a folder, intact or not."""
    return (directory / RECORD).exists()


def _open_split(directory: Path, name: str, record: SplitRecord, sources_sha256: str) -> SplitStore:
    images = open_images(directory / f"{name}.npy", (sum(record.class_sizes), *record.image_shape))
    check_split(directory, name, record, sources_sha256)
    sources = (sources_file(directory, name),)
    return SplitStore(name, images, tuple(record.class_names), np.array(record.class_sizes, np.int64), sources)


def _read_record(directory: Path) -> dict[str, Any]:
    path = directory / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"no prepared data set in {directory}; run 'fewshot prepare {directory.parent.name}'"
        ) from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not readable ({error}); {prepare_again(directory)}") from error
    found = record.get("format") if isinstance(record, dict) else type(record).__name__
    if found != FORMAT:
        raise DataError(f"{path} has format {found!r}, this program reads {FORMAT}; {prepare_again(directory)}")
    if record.pop(SEAL, None) != _hash_of(record):
        raise DataError(f"{path} has changed since it was written (its hash differs); {prepare_again(directory)}")
    return dict(record)


def _check_splits(records: dict[str, SplitRecord]) -> None:
    """Refuse missing or empty splits, and classes that are in two splits."""
    seen: dict[str, str] = {}
    for name in SPLITS:
        if name not in records or not records[name].class_names:
            raise DataError(f"split {name!r} is missing or has no classes; found: {', '.join(records) or 'none'}")
        for class_name in records[name].class_names:
            if class_name in seen:
                raise DataError(f"class {class_name!r} is in the splits {seen[class_name]!r} and {name!r}")
            seen[class_name] = name


def _content_hash(records: dict[str, SplitRecord]) -> str:
    return _hash_of({name: asdict(record) for name, record in records.items()})


def _hash_of(values: dict[str, Any]) -> str:
    """Return the SHA-256 of plain values in their order."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
