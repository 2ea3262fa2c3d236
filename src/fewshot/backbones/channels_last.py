"""Pool, sums per channel and their derivatives, each in one pass over channels-last maps on a CPU.

Full-size maps exceed the caches, and torch's batch norm, pool and activation read or write them about a dozen times in
a training step. The loops here are compiled, run on one thread, and let NaN and infinity through.

Shapes: maps (N, C, H, W), in float32, float64 or bfloat16 and contiguous in `torch.channels_last`; pooled maps
(N, C, H // 2, W // 2); values per channel are arrays (C,). Loops see maps as (N, H, W, C), see `compiled_loops`.
Values per channel are float64, and rounded to float32 unless the maps are float64. Sums are in the precision of these
values within two rows of pixels, otherwise in float64.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewshot.backbones.compiled_loops import array_of, compiled, first_beyond_cells, inlined, number, stored

DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class PooledMoments(NamedTuple):
    """Pooled maps, and the mean and biased variance of each channel over images and pixels."""

    pooled: Tensor
    mean: np.ndarray
    variance: np.ndarray


def pool_and_moments(maps: Tensor, weight: Tensor) -> PooledMoments:
    """Pool maps and compute their moments.

    Sums are centred at the mean of the first image: subtracting it leaves deviations comparable to the standard
    deviation, so that the variance loses no digits where the mean is large.

    Args:
        maps: as described above.
        weight: batch-norm weight, (C,); a channel is max-pooled if it is 0 or more, otherwise min-pooled.
    """
    n, channels, height, width = maps.shape
    shape = (n, channels, height // 2, width // 2)
    pooled = torch.empty(shape, dtype=maps.dtype, memory_format=torch.channels_last)
    mean, variance = np.empty(channels), np.empty(channels)
    _pool_and_moments(array_of(maps), weight.detach().numpy(), array_of(pooled), mean, variance)
    return PooledMoments(pooled, mean, variance)


def line(maps: Tensor, mean: np.ndarray, slope: np.ndarray, constant: np.ndarray, below_zero: float = 1.0) -> Tensor:
    """Return the leaky ReLU, of slope `below_zero`, of slope * (maps - mean) + constant."""
    out = torch.empty_like(maps)
    _line(array_of(maps), mean, slope, constant, below_zero, array_of(out))
    return out


class OfActivation(NamedTuple):
    """The cotangent of `out`, a leaky ReLU of slope `below_zero`; functions take it back to the activation's input."""

    cotangent: Tensor
    out: Tensor
    below_zero: float


def sums(of_activation: OfActivation, maps: Tensor, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of the cotangent, and of cotangent * (maps - mean), over images and pixels."""
    cotangent, out, below_zero = of_activation
    total, product = np.zeros(maps.shape[1]), np.zeros(maps.shape[1])
    _sums(array_of(cotangent), array_of(out), array_of(maps), below_zero, mean, total, product)
    return total, product


def scatter_on_line(
    maps: Tensor,
    pooled: Tensor,
    of_activation: OfActivation,
    factor: np.ndarray,
    mean: np.ndarray,
    slope: np.ndarray,
    constant: np.ndarray,
) -> Tensor:
    """Return slope * (maps - mean) + constant, plus factor * cotangent at the pixel that was pooled in each cell."""
    of_maps = torch.empty_like(maps)
    cotangent, out, below_zero = of_activation
    _scatter_on_line(
        array_of(maps),
        array_of(pooled),
        array_of(cotangent),
        array_of(out),
        below_zero,
        factor,
        mean,
        slope,
        constant,
        array_of(of_maps),
    )
    return of_maps


# The compiler vectorises an inner loop only if it can check cheaply that its arrays do not overlap, so none writes more
# than one map.


@compiled
def _pool_and_moments(maps, weight, pooled, mean, variance) -> None:  # type: ignore[no-untyped-def]
    n, height, width, channels = maps.shape
    centre, sign = _mean(maps[0]), _rounded(np.where(weight >= 0, 1.0, -1.0), maps)
    total, squares = np.zeros(channels), np.zeros(channels)
    row_total, row_squares = np.zeros_like(centre), np.zeros_like(centre)
    for i in range(n):
        for y in range(height // 2):
            for x in range(width // 2):
                upper_left, upper_right = maps[i, 2 * y, 2 * x], maps[i, 2 * y, 2 * x + 1]
                lower_left, lower_right = maps[i, 2 * y + 1, 2 * x], maps[i, 2 * y + 1, 2 * x + 1]
                cell = pooled[i, y, x]
                for c in range(channels):
                    p, q = number(upper_left[c]), number(upper_right[c])
                    r, s = number(lower_left[c]), number(lower_right[c])
                    upper, lower = _larger(sign[c] * p, sign[c] * q), _larger(sign[c] * r, sign[c] * s)
                    cell[c] = stored(sign[c] * _larger(upper, lower), cell[c])
                    p, q, r, s = p - centre[c], q - centre[c], r - centre[c], s - centre[c]
                    row_total[c] += (p + q) + (r + s)
                    row_squares[c] += (p * p + q * q) + (r * r + s * s)
            _move(row_total, total)
            _move(row_squares, squares)
        if height % 2 == 1 or width % 2 == 1:
            _sum_beyond_cells(maps[i], centre, row_total, row_squares, total, squares)
    pixels = n * height * width
    for c in range(channels):
        offset = total[c] / pixels
        mean[c] = centre[c] + offset
        variance[c] = max(squares[c] / pixels - offset * offset, 0)


@compiled
def _sums(cotangent, out, maps, below_zero, mean, total, product) -> None:  # type: ignore[no-untyped-def]
    n, height, width, channels = maps.shape
    mean = _rounded(mean, maps)
    one, below_zero = mean.dtype.type(1), mean.dtype.type(below_zero)
    row_total, row_product, value = np.zeros_like(mean), np.zeros_like(mean), np.empty_like(mean)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                values, activated, pixel = cotangent[i, y, x], out[i, y, x], maps[i, y, x]
                for c in range(channels):
                    value[c] = number(values[c]) * (one if number(activated[c]) > 0 else below_zero)
                for c in range(channels):
                    row_total[c] += value[c]
                    row_product[c] += value[c] * (number(pixel[c]) - mean[c])
            _move(row_total, total)
            _move(row_product, product)


@compiled
def _line(maps, mean, slope, constant, below_zero, out) -> None:  # type: ignore[no-untyped-def]
    n, height, width, channels = maps.shape
    mean, slope, constant = _rounded(mean, maps), _rounded(slope, maps), _rounded(constant, maps)
    below_zero = mean.dtype.type(below_zero)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                pixel, written = maps[i, y, x], out[i, y, x]
                for c in range(channels):
                    value = slope[c] * (number(pixel[c]) - mean[c]) + constant[c]
                    written[c] = stored(value if value > 0 else below_zero * value, written[c])


@compiled
def _scatter_on_line(  # type: ignore[no-untyped-def]
    maps, pooled, cotangent, out, below_zero, factor, mean, slope, constant, of_maps
) -> None:
    n, height, width, channels = maps.shape
    factor, mean = _rounded(factor, maps), _rounded(mean, maps)
    slope, constant = _rounded(slope, maps), _rounded(constant, maps)
    left, zero, one = np.empty_like(mean), mean.dtype.type(0), mean.dtype.type(1)
    below_zero = mean.dtype.type(below_zero)
    for i in range(n):
        for y in range(height // 2):
            for x in range(width // 2):
                values, activated, taken = cotangent[i, y, x], out[i, y, x], pooled[i, y, x]
                for c in range(channels):
                    gate = one if number(activated[c]) > 0 else below_zero
                    left[c] = factor[c] * (gate * number(values[c]))
                for k in range(4):
                    pixel, written = maps[i, 2 * y + k // 2, 2 * x + k % 2], of_maps[i, 2 * y + k // 2, 2 * x + k % 2]
                    for c in range(channels):
                        share = left[c] if pixel[c] == taken[c] else zero
                        value = slope[c] * (number(pixel[c]) - mean[c]) + constant[c] + share
                        written[c] = stored(value, written[c])
                    for c in range(channels):  # the first of equal pixels takes it all
                        left[c] = zero if pixel[c] == taken[c] else left[c]
        if height % 2 == 1 or width % 2 == 1:
            _line_beyond_cells(maps[i], mean, slope, constant, of_maps[i])


@compiled
def _mean(image):  # type: ignore[no-untyped-def]
    """Return the mean of each channel of an image (H, W, C)."""
    height, width, channels = image.shape
    total = _rounded(np.zeros(channels), image)
    for y in range(height):
        for x in range(width):
            pixel = image[y, x]
            for c in range(channels):
                total[c] += number(pixel[c])
    return total / total.dtype.type(height * width)


@compiled
def _rounded(values, maps):  # type: ignore[no-untyped-def]
    """Return values in the precision in which loops over these maps compute."""
    out = np.full(len(values), number(maps.dtype.type(0)))
    for c in range(len(values)):
        out[c] = values[c]
    return out


@compiled
def _line_beyond_cells(image, mean, slope, constant, out) -> None:  # type: ignore[no-untyped-def]
    """Write slope * (image - mean) + constant at the last row and column of an image (H, W, C) of odd sides."""
    height, width, channels = image.shape
    for y in range(height):
        for x in range(first_beyond_cells(y, height, width), width):
            pixel, written = image[y, x], out[y, x]
            for c in range(channels):
                written[c] = stored(slope[c] * (number(pixel[c]) - mean[c]) + constant[c], written[c])


@compiled
def _sum_beyond_cells(image, centre, row_total, row_squares, total, squares) -> None:  # type: ignore[no-untyped-def]
    """Add the last row and column of an image (H, W, C) of odd sides to the sums of `_pool_and_moments`."""
    height, width, channels = image.shape
    for y in range(height):
        for x in range(first_beyond_cells(y, height, width), width):
            pixel = image[y, x]
            for c in range(channels):
                value = number(pixel[c]) - centre[c]
                row_total[c] += value
                row_squares[c] += value * value
        _move(row_total, total)
        _move(row_squares, squares)


@inlined
def _move(row, total) -> None:  # type: ignore[no-untyped-def]
    """Add the sums of a row to the total, and reset them."""
    for c in range(len(row)):
        total[c] += row[c]
    for c in range(len(row)):
        row[c] = 0


@inlined
def _larger(one, other):  # type: ignore[no-untyped-def]
    return other if other > one else one
