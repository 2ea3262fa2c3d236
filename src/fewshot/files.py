"""Files of numbers: arrays whose bytes depend on their content alone, and JSON."""

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewshot.errors import DataError


def write_npz(path: Path, arrays: Mapping[str, np.ndarray | np.generic]) -> None:
    """Write arrays as an uncompressed npz with fixed dates and sorted names, so that equal arrays give equal bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), buffer.getvalue())


def read_json(path: Path) -> Any:
    """Read a JSON file that this program wrote.

    Raises:
        DataError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not readable ({error}); delete its folder and start again: it is restored or remade"
        ) from None


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON with sorted keys."""
    write_atomic(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())
