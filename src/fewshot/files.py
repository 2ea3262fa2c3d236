"""Array, JSON and CSV files whose bytes depend only on their content, and atomic writes."""

import csv
import errno
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fewshot.errors import DataError, ResourceError, reason_of

if TYPE_CHECKING:
    import numpy as np

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
WRITE_REFUSED = (*DISK_FULL, errno.EROFS, errno.EACCES, errno.EPERM)


def write_npz(path: Path, arrays: Mapping[str, "np.ndarray | np.generic"]) -> None:
    """Write arrays as an uncompressed npz with fixed timestamps and sorted names: equal arrays give equal bytes."""
    import numpy as np  # not at the top: commands that read no arrays start faster without it

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), buffer.getvalue())


RESTORE = "delete its folder and rerun: it is restored or recomputed"


def read_json(path: Path, *, advice: str = RESTORE) -> Any:
    """Read a JSON file written by this program.

    Args:
        path: of the file.
        advice: what to do if it cannot be read, for the error.

    Raises:
        DataError: if the file is missing or damaged.
    """
    with _refuse_damage(path, advice):
        return json.loads(path.read_text(encoding="utf-8"))


def read_npz(path: Path, *, advice: str = RESTORE) -> "dict[str, np.ndarray]":
    """Read all arrays of an npz file, by name; arguments and errors as `read_json`."""
    import numpy as np  # as in `write_npz`

    with _refuse_damage(path, advice), np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def read_csv(path: Path, *, advice: str = RESTORE) -> list[dict[str, str]]:
    """Read the records of a CSV file with a header; all values are strings. Arguments and errors as `read_json`."""
    with _refuse_damage(path, advice), path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@contextmanager
def _refuse_damage(path: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # zipfile, csv and numpy raise many types for a damaged file
        raise DataError(f"{path}: not readable ({reason_of(error)}); {advice}") from None


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see either the old content or the new, never a partial file."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a scratch file that takes the place of a file when it is complete; if it cannot be, it is removed."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise


def cannot_write(path: Path | str, error: OSError) -> ResourceError:
    """Return the error to raise when a path cannot be written."""
    reason = error.strerror or error
    return ResourceError(f"cannot write {path}: {reason}; free some disk space or fix the directory's permissions")


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON with sorted keys."""
    write_atomic(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def write_csv(path: Path, records: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write records as CSV with a header; None and missing values are empty cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_atomic(path, text.getvalue().encode())
