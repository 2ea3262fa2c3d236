"""Parquet files of the Hugging Face Hub: a column of image files, a column of labels, class names in the schema."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from fewshot.datasets.class_lists import ClassLists
from fewshot.datasets.file_sets import FileSet
from fewshot.datasets.images import MAX_FILE_BYTES
from fewshot.datasets.sources import decode_counted, labels_to_names, split_of_name
from fewshot.errors import DataError, reason_of

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "label")
MAX_GROUP_BYTES = 4 << 30  # of an uncompressed row group; one is in memory at a time
ROWS_AT_ONCE = 64


class ParquetSource:
    """Encoded image files in parquet files; rows are numbered across files.

    Args:
        files: files that contain the parquet files.
        names: names of the parquet files.
        to_array: image -> (H, W, 3) uint8.

    Raises:
        DataError: if a file is damaged, lacks these columns, or its labels have no names.
    """

    def __init__(self, files: FileSet, names: Sequence[str], to_array: Callable[[Image.Image], np.ndarray]) -> None:
        self.origin, self._files, self._to_array = files.origin, files, to_array
        self._labels = {name: _read_labels(files, name) for name in names}
        self.classes: Sequence[str] = [label for labels in self._labels.values() for label in labels]

    def without_surplus(self, lists: ClassLists) -> "ParquetSource":
        """Leave out a part `test` whose images do not belong to the data set.

        On the Hub a data set may be split within its classes, with images of ImageNet's own validation set added as
        `test`. Such a part is left out if every class is complete without it.
        """
        kept = [name for name in self._labels if split_of_name(PurePosixPath(name).stem) != "test"]
        counts = Counter(label for name in kept for label in self._labels[name])
        wanted = {name for names in lists.splits.values() for name in names}
        complete = kept and all(counts[name] == lists.images_per_class for name in wanted)
        return ParquetSource(self._files, kept, self._to_array) if complete else self

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray, str]]:
        """Yield the images."""
        wanted, first = set(rows), 0
        for name, labels in self._labels.items():
            numbers = range(first, first + len(labels))
            if not wanted.isdisjoint(numbers):
                for row, (content, origin) in zip(numbers, self._encoded(name), strict=True):
                    if row in wanted:
                        image = decode_counted(self._files, content, self._files.where(origin))
                        yield row, self._to_array(image), origin
            first += len(labels)

    def _encoded(self, name: str) -> Iterator[tuple[bytes, str]]:
        """Yield every image file of a parquet file, with its name in errors."""
        with _open(self._files, name) as table:
            column, row = _column(table, IMAGE_COLUMNS, self._files.where(name)), 0
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=[column]):
                for value in batch.column(0):
                    origin = f"{name}#{row}"
                    yield _image_bytes(value.as_py(), self._files.where(origin)), origin
                    row += 1


def parquet_names(files: FileSet) -> list[str]:
    """Return the names of the parquet files."""
    return [name for name in files.names() if name.endswith(".parquet")]


@contextmanager
def _open(files: FileSet, name: str) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open a parquet file; any failure becomes a `DataError`."""
    with files.open(name) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            for index in range(table.num_row_groups):
                size = table.metadata.row_group(index).total_byte_size
                if not 0 <= size <= MAX_GROUP_BYTES:
                    raise DataError(
                        f"{files.where(name)}: a row group declares {size:,} bytes, at most {MAX_GROUP_BYTES:,} are "
                        "read; fetch it again"
                    )
            yield table
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f"{files.where(name)} is not a complete parquet file ({reason_of(error)}); fetch it again"
            ) from error


def _column(table: pyarrow.parquet.ParquetFile, names: Sequence[str], origin: str) -> str:
    found = table.schema_arrow.names
    for name in names:
        if name in found:
            return name
    raise DataError(f"{origin}: none of the columns {', '.join(names)}, found {found[:8]}; it is another data set")


def _read_labels(files: FileSet, name: str) -> list[str]:
    """Return the class name of every row."""
    with _open(files, name) as table:
        column = _column(table, LABEL_COLUMNS, files.where(name))
        values = table.read([column]).column(0)
        if values.null_count:
            raise DataError(
                f"{files.where(name)}: {values.null_count} labels of column {column!r} are missing; fetch it again"
            )
        if pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type):
            return [str(value) for value in values.to_pylist()]
        return labels_to_names(values.to_numpy(), files.where(name), _label_names(table, column))


def _label_names(table: pyarrow.parquet.ParquetFile, column: str) -> dict[int, str] | None:
    """Return label -> class name from the schema as the Hub's library writes it; None if missing."""
    try:
        features = json.loads((table.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        return {label: str(name) for label, name in enumerate(features[column]["names"])}
    except (KeyError, TypeError, ValueError):
        return None


def _image_bytes(value: object, origin: str) -> bytes:
    """Return the image file of a row: bytes, or a mapping with `bytes`."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes) or len(content) > MAX_FILE_BYTES:
        found = f"{len(content):,} bytes" if isinstance(content, bytes) else type(content).__name__
        raise DataError(f"{origin} is {found}, expected an image file; fetch the files with their images")
    return content
