"""Inner products of a few long rows: a handful of images or classes, thousands of features.

On the CPU, compiled loops process one episode at a time, so that it stays in the processor's cache; other devices use
`torch.bmm`. Sums are accumulated in the inputs' dtype.

Speed relative to `torch.bmm`, 5 to 75 rows, float32, one thread, torch 2.14: 2 to 5 on AMD EPYC (family 26) at 1,600
and 16,000 features; on Intel Xeon (family 6, model 167) 1.1 to 1.7 for the Gram matrix of 25 or more rows of 1,600 or
more features, 0.3 to 1.3 for other products. On the Xeon, a whole head is up to 12 % faster with the loops at 1,600 or
more features and 4 to 8 % slower at 128. Weighted sums of rows (A X) use `torch.bmm` on every device: compiled loops
ran at 0.7 to 1.5 times its speed on the EPYC and 0.23 to 1.2 times on the Xeon, where a whole head is 3 to 18 % faster
without them.

Shapes: T episodes, R and S rows, d features.
"""

from typing import Any

import numba
import torch
from torch import Tensor

# NaN and infinity must reach the result, so the flags "nnan" and "ninf" are omitted.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
_compile = numba.njit(cache=True, **_OPTIONS)
_inline = numba.njit(forceinline=True, **_OPTIONS)  # see `pivoting_numba`: identical bits with a cold or warm cache

FEATURES_AT_ONCE = 2048
"""Features per block of inner products, chosen so that the rows of a 25-image episode fit in the L2 cache."""


def gram(rows: Tensor) -> Tensor:
    """Return X X^T (T, S, S) of X (T, S, d)."""
    if not _compiled(rows):
        return torch.bmm(rows, rows.mT)
    return _inner(rows, rows, symmetric=True)


def inner_products(left: Tensor, right: Tensor) -> Tensor:
    """Return L X^T (T, R, S) of L (T, R, d) and X (T, S, d)."""
    if not _compiled(right):
        return torch.bmm(left, right.mT)
    return _inner(left, right, symmetric=False)


def _compiled(rows: Tensor) -> bool:
    return rows.device.type == "cpu"


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def _inner(left: Tensor, right: Tensor, symmetric: bool) -> Tensor:
    result = right.new_zeros(right.shape[0], left.shape[1], right.shape[1])
    _inner_products(_array(left), _array(right), symmetric, result.numpy())
    return result


@_compile
def _inner_products(left: Any, right: Any, symmetric: bool, result: Any) -> None:
    """Add all inner products to `result`; if symmetric, compute the lower triangle and mirror it."""
    n_episodes, n_left, n_features = left.shape
    n_right = right.shape[1]
    for t in range(n_episodes):
        for start in range(0, n_features, FEATURES_AT_ONCE):
            stop = min(start + FEATURES_AT_ONCE, n_features)
            for i in range(0, n_left, 4):
                for j in range(0, min(i + 4, n_right) if symmetric else n_right, 4):
                    _add_tile(left, right, t, i, j, start, stop, result)
        if symmetric:
            for i in range(n_left):
                for j in range(i):
                    result[t, j, i] = result[t, i, j]


@_inline
def _add_tile(left: Any, right: Any, t: int, i: int, j: int, start: int, stop: int, result: Any) -> None:
    """Add the inner products of four rows with four, all sixteen in registers; past the end, repeat the last row."""
    last_i, last_j = left.shape[1] - 1, right.shape[1] - 1
    i1, i2, i3 = min(i + 1, last_i), min(i + 2, last_i), min(i + 3, last_i)
    j1, j2, j3 = min(j + 1, last_j), min(j + 2, last_j), min(j + 3, last_j)
    # Slices along the last axis only: numba then knows that the entries are contiguous, and vectorises.
    a0, a1 = left[t, i, start:stop], left[t, i1, start:stop]
    a2, a3 = left[t, i2, start:stop], left[t, i3, start:stop]
    b0, b1 = right[t, j, start:stop], right[t, j1, start:stop]
    b2, b3 = right[t, j2, start:stop], right[t, j3, start:stop]
    zero = result.dtype.type(0)  # a literal 0.0 would make the sums float64
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero
    for k in range(stop - start):
        x0, x1, x2, x3 = a0[k], a1[k], a2[k], a3[k]
        y0, y1, y2, y3 = b0[k], b1[k], b2[k], b3[k]
        s00, s01, s02, s03 = s00 + x0 * y0, s01 + x0 * y1, s02 + x0 * y2, s03 + x0 * y3
        s10, s11, s12, s13 = s10 + x1 * y0, s11 + x1 * y1, s12 + x1 * y2, s13 + x1 * y3
        s20, s21, s22, s23 = s20 + x2 * y0, s21 + x2 * y1, s22 + x2 * y2, s23 + x2 * y3
        s30, s31, s32, s33 = s30 + x3 * y0, s31 + x3 * y1, s32 + x3 * y2, s33 + x3 * y3
    tile = ((s00, s01, s02, s03), (s10, s11, s12, s13), (s20, s21, s22, s23), (s30, s31, s32, s33))
    for a in range(min(4, last_i - i + 1)):
        for b in range(min(4, last_j - j + 1)):
            result[t, i + a, j + b] += tile[a][b]
