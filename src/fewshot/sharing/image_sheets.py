"""Stores in little space, to be sent: the images of a class side by side in lossless WebP files.

Such sheets need 4.4 bits per value of CIFAR-100, PNG sheets 5.3 to 5.7, xz of differences of neighbours 4.9 to 5.0.

    <sheets>/<split>/<class>-<sheet>.webp      rows of images, in the order of the store
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from fewshot.datasets.split_files import array_header, sources_file
from fewshot.datasets.store import RECORD, Store
from fewshot.errors import DataError
from fewshot.files import replacing

LARGEST_SIDE = 16_383  # pixels, of a WebP file


def pack_store(store: Store, folder: Path) -> None:
    """Write a store as sheets, with its record and the sources of its images.

    Args:
        store: prepared data set.
        folder: created.

    Raises:
        DataError: if its images do not have three channels.
    """
    channels = store.image_shape[2]
    if channels != 3:
        raise DataError(f"{store.directory}: images with {channels} channels; only those with 3 fit into sheets")
    for name, split in store.splits.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for label, (start, size) in enumerate(zip(split.class_starts, split.class_sizes, strict=True)):
            images = split.images[start : start + size]
            for number, part in enumerate(_parts(int(size), max(store.image_shape[:2]))):
                sheet = Image.fromarray(_sheet(np.asarray(images[part])))
                sheet.save(folder / name / f"{label:05d}-{number}.webp", lossless=True, quality=75, method=4)
        sources = sources_file(store.directory, name)
        (folder / sources.name).write_bytes(sources.read_bytes())
    (folder / RECORD).write_bytes((store.directory / RECORD).read_bytes())


def unpack_store(folder: Path, directory: Path) -> None:
    """Write the files of a store from its sheets; `open_store` verifies them.

    Args:
        folder: written by `pack_store`.
        directory: of the store.

    Raises:
        DataError: if a sheet is missing or of another size.
    """
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    directory.mkdir(parents=True, exist_ok=True)
    for name, split in record["splits"].items():
        shape = tuple(split["image_shape"])
        with replacing(directory / f"{name}.npy") as file:
            file.write(array_header((sum(split["class_sizes"]), *shape)))
            for label, size in enumerate(split["class_sizes"]):
                for number, part in enumerate(_parts(size, max(shape[:2]))):
                    sheet = folder / name / f"{label:05d}-{number}.webp"
                    file.write(_images(sheet, part.stop - part.start, shape).tobytes())
        sources = sources_file(directory, name)
        sources.write_bytes((folder / sources.name).read_bytes())
    (directory / RECORD).write_bytes((folder / RECORD).read_bytes())


def _parts(n_images: int, side: int) -> Iterator[slice]:
    """Yield the images of each sheet of a class."""
    per_sheet = (LARGEST_SIDE // side) ** 2
    for start in range(0, n_images, per_sheet):
        yield slice(start, min(start + per_sheet, n_images))


def _sheet(images: np.ndarray) -> np.ndarray:
    """Return images (n, H, W, 3) as one, row by row; the last row is completed with black ones."""
    n_images, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(n_images))
    rows = math.ceil(n_images / columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:n_images] = images
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return np.ascontiguousarray(grid.reshape(rows * height, columns * width, channels))


def _images(file: Path, n_images: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the images (n, H, W, 3) of a sheet."""
    height, width, channels = shape
    columns = math.ceil(math.sqrt(n_images))
    rows = math.ceil(n_images / columns)
    try:
        with Image.open(file) as opened:
            grid = np.asarray(opened.convert("RGB"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error}); send the bundle again") from None
    if grid.shape != (rows * height, columns * width, channels):
        raise DataError(f"{file}: {grid.shape} instead of {n_images} images of {shape}; send the bundle again")
    return grid.reshape(rows, height, columns, width, channels).swapaxes(1, 2).reshape(-1, *shape)[:n_images]
