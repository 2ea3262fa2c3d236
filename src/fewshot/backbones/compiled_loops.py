"""What compiled loops over channels-last maps share: their options, and numbers that may be bfloat16.

numpy lacks bfloat16, so the loops see such arrays as uint16. Without `fastmath`, every sum has one order, whatever the
processor. numba keeps a compiled loop until the file that defines it changes: after an edit of this file, delete the
`__pycache__` folder beside it.
"""

from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
compiled: Any = numba.njit(cache=True, **OPTIONS)
inlined: Any = numba.njit(forceinline=True, **OPTIONS)


def array_of(tensor: Tensor) -> np.ndarray:
    """Return an array that shares the memory of maps, as (N, H, W, C), or of another tensor, as it is."""
    values = tensor.detach()
    values = values.permute(0, 2, 3, 1) if values.ndim == 4 else values
    array: np.ndarray = (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()
    return array


def number(stored):  # type: ignore[no-untyped-def]
    """Return the number that an entry stands for; only in compiled code."""
    raise NotImplementedError


def stored(value, like):  # type: ignore[no-untyped-def]
    """Return a number as an entry such as `like`, rounded to the nearest; only in compiled code."""
    raise NotImplementedError


@overload(number, inline="always")
def _number(stored):  # type: ignore[no-untyped-def]
    if stored == types.uint16:
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


@overload(stored, inline="always")
def _stored(value, like):  # type: ignore[no-untyped-def]
    if like == types.uint16:
        return lambda value, like: _bfloat16(value)
    return lambda value, like: value


@inlined
def _bfloat16(value):  # type: ignore[no-untyped-def]
    """Return the upper half of a float32, rounded to the nearest, ties to even; NaN stays NaN."""
    bits = np.float32(value).view(np.uint32)
    is_odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16((bits + np.uint32(0x7FFF) + is_odd) >> np.uint32(16))


@inlined
def first_beyond_cells(y, height, width):  # type: ignore[no-untyped-def]
    """Return the first pixel of row y that belongs to no 2x2 cell: a pool drops the last row and column if odd."""
    return width // 2 * 2 if y < height // 2 * 2 else 0
