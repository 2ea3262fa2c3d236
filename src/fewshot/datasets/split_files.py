"""The files of one split: its images in one array, class by class, and the origin of each image.

    <split>.npy              (N, H, W, C) uint8
    <split>.sources.txt      one line per image: the file, or the row of a file, it came from

Within a class the images are ordered by a hash of their pixels, so the content, its hash and therefore every episode
are independent of the mirror, archive form and file order.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fewshot.datasets.disk import require_space
from fewshot.digests import file_digest
from fewshot.errors import DataError

DIGEST_BYTES = 16
EXAMPLES_KEPT = 20


@dataclass(frozen=True)
class SplitPlan:
    """One split to be written to a store.

    Attributes:
        name: "train", "validation" or "test".
        class_names: in the order of the labels.
        class_sizes: images of each class.
        images: (label, image (H, W, C) uint8, source id), in any order; read once, one image at a time.
    """

    name: str
    class_names: Sequence[str]
    class_sizes: Sequence[int]
    images: Iterable[tuple[int, np.ndarray, str]]


@dataclass(frozen=True)
class SplitRecord:
    """The entry of a split in the store's record; `sha256` is over all pixels."""

    class_names: list[str]
    class_sizes: list[int]
    image_shape: list[int]
    sha256: str


def write_split(directory: Path, plan: SplitPlan, shape: tuple[int, int, int]) -> tuple[SplitRecord, np.ndarray]:
    """Write the files of a split; memory is bounded by the largest class.

    Returns:
        The record, and the digest of each image by row, (N, DIGEST_BYTES) uint8.

    Raises:
        DataError: if there are too few or too many images, one has another shape or type, or a class name is repeated.
        ResourceError: if there is too little disk space.
    """
    _check_classes(plan)
    starts = np.concatenate([[0], np.cumsum(plan.class_sizes)]).astype(np.int64)
    n_images = int(starts[-1])
    require_space(str(directory), n_images * int(np.prod(shape)), shutil.disk_usage(directory).free)
    with open(directory / f"{plan.name}.npy", "w+b") as file:
        file.write(array_header((n_images, *shape)))
        offset = file.tell()
        sources = _write_images(file, offset, plan, starts, shape)
        sha256, digests = _sort_classes(file, offset, starts, shape, sources)
        file.flush()
        os.fsync(file.fileno())  # the pixels must be on disk before the store is moved into place
    lines = "".join(" ".join(source.splitlines()) + "\n" for source in sources)
    sources_file(directory, plan.name).write_text(lines, encoding="utf-8", errors="backslashreplace")
    return SplitRecord(list(plan.class_names), [int(size) for size in plan.class_sizes], list(shape), sha256), digests


def sources_file(directory: Path, split: str) -> Path:
    """Return the path of a split's source ids."""
    return directory / f"{split}.sources.txt"


def _check_classes(plan: SplitPlan) -> None:
    names, sizes = plan.class_names, plan.class_sizes
    if len(names) != len(sizes):
        raise DataError(f"split {plan.name!r}: {len(names)} class names for {len(sizes)} classes")
    repeated = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise DataError(f"split {plan.name!r}: repeated class names: {', '.join(repeated)}")
    for name, size in zip(names, sizes, strict=True):
        if size < 1:
            raise DataError(f"split {plan.name!r}: class {name!r} has no images")


def _write_images(
    file: BinaryIO, offset: int, plan: SplitPlan, starts: np.ndarray, shape: tuple[int, ...]
) -> list[str]:
    """Write each image to the next free row of its class; return the source ids by row."""
    filled = [int(start) for start in starts[:-1]]
    sources = [""] * int(starts[-1])
    image_bytes = int(np.prod(shape))
    for label, image, source in plan.images:
        where = f"split {plan.name!r}, image {source!r}"
        if not 0 <= label < len(filled):
            raise DataError(f"{where}: label {label} is outside 0 .. {len(filled) - 1}")
        if image.dtype != np.uint8 or image.shape != tuple(shape):
            raise DataError(f"{where}: {image.dtype} of shape {image.shape}, expected uint8 of shape {tuple(shape)}")
        row = filled[label]
        if row == starts[label + 1]:
            name, size = plan.class_names[label], plan.class_sizes[label]
            raise DataError(f"{where}: class {name!r} has more than the expected {size} images")
        file.seek(offset + row * image_bytes)
        file.write(np.ascontiguousarray(image).data)
        sources[row] = source
        filled[label] += 1
    for label, row in enumerate(filled):
        if row != starts[label + 1]:
            raise DataError(
                f"split {plan.name!r}: class {plan.class_names[label]!r} has {row - starts[label]} images, "
                f"expected {plan.class_sizes[label]}; the source is incomplete, fetch it again"
            )
    return sources


def _sort_classes(
    file: BinaryIO, offset: int, starts: np.ndarray, shape: tuple[int, ...], sources: list[str]
) -> tuple[str, np.ndarray]:
    """Sort the images of each class by digest, in place; return the SHA-256 of all pixels and the digests by row."""
    image_bytes = int(np.prod(shape))
    total = hashlib.sha256()
    digests = np.empty((int(starts[-1]), DIGEST_BYTES), np.uint8)
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        file.seek(offset + start * image_bytes)
        block = np.frombuffer(file.read((stop - start) * image_bytes), np.uint8).reshape(stop - start, image_bytes)
        keys = [image_digest(image) for image in block]
        order = sorted(range(stop - start), key=lambda i: (keys[i], sources[start + i]))
        block = block[order]
        file.seek(offset + start * image_bytes)
        file.write(block.data)
        total.update(block.data)
        sources[start:stop] = [sources[start + i] for i in order]
        digests[start:stop] = [np.frombuffer(keys[i], np.uint8) for i in order]
    return total.hexdigest(), digests


def image_digest(image: np.ndarray) -> bytes:
    """Return the digest of an image's pixels, uint8; equal images have equal digests."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=DIGEST_BYTES).digest()


def open_images(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Memory-map the image array of a split, (N, H, W, C) uint8, read-only.

    Raises:
        DataError: if the file is missing, truncated, too long, or of another shape or type.
    """
    header = array_header(shape)
    length = len(header) + int(np.prod(shape))
    try:
        with open(path, "rb") as file:
            found = file.read(len(header))
        if found != header:
            raise DataError(f"{path} is not a uint8 array of shape {shape} in C order; {prepare_again(path.parent)}")
        if path.stat().st_size != length:
            raise DataError(
                f"{path} is {path.stat().st_size:,} bytes long, expected {length:,}; {prepare_again(path.parent)}"
            )
        return np.memmap(path, np.uint8, "r", len(header), shape).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); {prepare_again(path.parent)}") from error


def array_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of an .npy file with a uint8 array of this shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def check_split(directory: Path, name: str, record: SplitRecord, sources_sha256: str) -> None:
    """Verify the files of a split against their recorded hashes; unchanged files are read only once (see `digests`).

    Raises:
        DataError: if the pixels or the source ids have changed.
    """
    images, sources = directory / f"{name}.npy", sources_file(directory, name)
    header = len(array_header((sum(record.class_sizes), *record.image_shape)))
    for path, start, recorded in ((images, header, record.sha256), (sources, 0, sources_sha256)):
        try:
            found = file_digest(path, start)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}); {prepare_again(directory)}") from error
        if found != recorded:
            raise DataError(
                f"{path} has changed since it was prepared (its sha256 differs); {prepare_again(directory)}"
            )


def prepare_again(directory: Path) -> str:
    """Return what to do about a damaged store."""
    return f"'fewshot prepare {directory.parent.name}' builds it again from the raw files"


def find_duplicates(directory: Path, digests: dict[str, np.ndarray]) -> dict[str, Any]:
    """Report images with identical pixels.

    Args:
        directory: folder of the source ids.
        digests: by split, (N, DIGEST_BYTES) uint8.

    Returns:
        `within`: split -> number of repeated images; `across`: "a/b" -> number of images in split b that are also in
        split a; `examples`: some of the latter, [source in a, source in b].
    """
    keys = {name: [row.tobytes() for row in split] for name, split in digests.items()}
    within = {name: len(rows) - len(set(rows)) for name, rows in keys.items()}
    across: dict[str, int] = {}
    examples: list[list[str]] = []
    names = list(keys)
    for i, first in enumerate(names):
        first_rows = {key: row for row, key in enumerate(keys[first])}
        for second in names[i + 1 :]:
            shared = [(first_rows[key], row) for row, key in enumerate(keys[second]) if key in first_rows]
            across[f"{first}/{second}"] = len(shared)
            for a, b in shared[: EXAMPLES_KEPT - len(examples)]:
                pair = _source(directory, first, a), _source(directory, second, b)
                examples.append([f"{first}: {pair[0]}", f"{second}: {pair[1]}"])
    return {"within": within, "across": across, "examples": examples}


def _source(directory: Path, split: str, row: int) -> str:
    return sources_file(directory, split).read_text(encoding="utf-8").split("\n")[row]
