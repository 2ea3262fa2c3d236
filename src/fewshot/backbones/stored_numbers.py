"""Numbers in compiled loops over arrays that may be bfloat16, which numpy lacks: such arrays are passed as uint16."""

import numba
import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor


def array_of(tensor: Tensor) -> np.ndarray:
    """Return an array that shares the tensor's memory; uint16 for bfloat16."""
    array: np.ndarray = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
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


@numba.njit(forceinline=True, error_model="numpy")
def _bfloat16(value):  # type: ignore[no-untyped-def]
    """Return the upper half of a float32, rounded to the nearest, ties to even; NaN stays NaN."""
    bits = np.float32(value).view(np.uint32)
    is_odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16((bits + np.uint32(0x7FFF) + is_odd) >> np.uint32(16))
