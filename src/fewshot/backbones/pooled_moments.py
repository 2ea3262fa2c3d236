"""Max-pool and batch moments in one pass over the maps, with hand-written first and second derivatives.

In each channel, batch norm with batch statistics is an increasing or decreasing affine function, and a leaky ReLU is
increasing, so a max-pool after both selects the same pixels as a pool before them:

    pool(lrelu(w (x - m) / s + b)) = lrelu(w (pool(x) - m) / s + b),      pool = max where w >= 0, min where w < 0

Then only the convolution, the mean m, the variance s^2 and the pool process full-size maps; these small networks are
memory-bound, and the second-order inner loop passes over each map many times.

With r = 2 v' / n, for cotangents p', m', v' of pool, mean and variance (n pixels per channel):

    first derivative    x' = scatter(p') + m' / n + r (x - m)
    second, for the cotangent u of x':
        of p': gather(u)     of m': mean(u)     of v': 2 mean(u (x - m))     of x: r (u - mean(u))

The kernels read channels-last maps, (N, H, W, C), on a CPU. Shapes: h, w = H // 2, W // 2.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pooled_moments(maps: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the 2x2-pooled maps, and the mean and biased variance of each channel over batch and pixels.

    Args:
        maps: (N, C, H, W) on the CPU.
        weight: batch-norm weight, (C,); a channel is max-pooled if it is 0 or more, otherwise min-pooled.

    Returns:
        (N, C, h, w), (C,), (C,); twice differentiable in `maps`.
    """
    # Made contiguous outside the autograd function, which must save its own input for the second derivative.
    maps = maps.contiguous(memory_format=torch.channels_last)
    pooled, mean, variance = _PooledMoments.apply(maps, weight.detach() >= 0)
    return pooled, mean, variance


class _PooledMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, take_largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, c, height, width = maps.shape
        pooled = torch.empty((n, c, height // 2, width // 2), dtype=maps.dtype, memory_format=torch.channels_last)
        choice = torch.empty_like(pooled, dtype=torch.uint8)
        mean, variance = maps.new_empty(c), maps.new_empty(c)
        _pool_and_moments(
            _array(maps), take_largest.numpy(), _array(pooled), _array(choice), mean.numpy(), variance.numpy()
        )
        ctx.save_for_backward(maps, mean, choice)
        return pooled, mean, variance

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        return _PooledMomentsBackward.apply(*ctx.saved_tensors, *cotangents), None


class _PooledMomentsBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, mean: Tensor, choice: Tensor, of_pooled: Tensor, of_mean: Tensor, of_variance: Tensor
    ) -> Tensor:
        pixels = maps.numel() // maps.shape[1]
        slope = of_variance * (2 / pixels)
        constant = of_mean / pixels - slope * mean
        of_maps = torch.empty_like(maps)
        of_pooled = of_pooled.contiguous(memory_format=torch.channels_last)
        _first_derivative(
            _array(maps), _array(choice), _array(of_pooled), slope.numpy(), constant.numpy(), _array(of_maps)
        )
        ctx.save_for_backward(maps, mean, choice, slope)
        return of_maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        maps, mean, choice, slope = ctx.saved_tensors
        cotangent = cotangent.contiguous(memory_format=torch.channels_last)
        gathered = torch.empty_like(choice, dtype=maps.dtype)
        total, product = torch.zeros_like(mean), torch.zeros_like(mean)
        _gather_and_sums(
            _array(maps),
            _array(choice),
            _array(cotangent),
            mean.numpy(),
            _array(gathered),
            total.numpy(),
            product.numpy(),
        )
        pixels = maps.numel() // maps.shape[1]
        shift = slope * (total / pixels)
        of_maps = torch.empty_like(maps)
        _line(_array(cotangent), slope.numpy(), shift.numpy(), _array(of_maps))
        return of_maps, None, None, gathered, total / pixels, product * (2 / pixels)


def _array(maps: Tensor) -> np.ndarray:
    """Return channels-last maps as a C-contiguous array (N, H, W, C) sharing their memory."""
    array: np.ndarray = maps.detach().permute(0, 2, 3, 1).numpy()
    return array


@numba.njit(cache=True, nogil=True)
def _pool_and_moments(maps, take_largest, pooled, choice, mean, variance) -> None:  # type: ignore[no-untyped-def]
    """Pool each 2x2 cell, record the selected pixel (0..3), and merge the moments of the images one by one."""
    n, height, width, channels = maps.shape
    sign = np.where(take_largest, 1, -1).astype(maps.dtype)
    per_image = height * width
    image_sum, squares = np.empty(channels, maps.dtype), np.empty(channels, maps.dtype)
    means, spread = np.zeros(channels), np.zeros(channels)
    for i in range(n):
        image_sum[:] = 0
        squares[:] = 0
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    image_sum[c] += maps[i, y, x, c]
        image_sum /= per_image
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    squares[c] += (maps[i, y, x, c] - image_sum[c]) ** 2
        for c in range(channels):
            step = image_sum[c] - means[c]
            means[c] += step / (i + 1)
            spread[c] += squares[c] + step * step * per_image * i / (i + 1)
        for y in range(height // 2):
            for x in range(width // 2):
                for c in range(channels):
                    best, taken = sign[c] * maps[i, 2 * y, 2 * x, c], np.uint8(0)
                    for k in range(1, 4):
                        value = sign[c] * maps[i, 2 * y + k // 2, 2 * x + k % 2, c]
                        taken = np.uint8(k) if value > best else taken
                        best = value if value > best else best
                    pooled[i, y, x, c] = sign[c] * best
                    choice[i, y, x, c] = taken
    mean[:] = means
    variance[:] = spread / (n * per_image)


@numba.njit(cache=True, nogil=True)
def _first_derivative(maps, choice, of_pooled, slope, constant, of_maps) -> None:  # type: ignore[no-untyped-def]
    """Write slope * maps + constant, plus the pool's cotangent at the selected pixels."""
    _line(maps, slope, -constant, of_maps)
    n, height, width, channels = of_pooled.shape
    for i in range(n):
        for y in range(height):
            for x in range(width):
                for k in range(4):
                    for c in range(channels):
                        share = of_pooled[i, y, x, c] if choice[i, y, x, c] == k else 0
                        of_maps[i, 2 * y + k // 2, 2 * x + k % 2, c] += share


@numba.njit(cache=True, nogil=True)
def _gather_and_sums(maps, choice, cotangent, mean, gathered, total, product) -> None:  # type: ignore[no-untyped-def]
    """Read the cotangent at the selected pixels; sum it, and its product with the centred maps, per channel."""
    n, height, width, channels = maps.shape
    row_total, row_product = np.empty(channels, maps.dtype), np.empty(channels, maps.dtype)
    for i in range(n):
        for y in range(height):
            row_total[:] = 0
            row_product[:] = 0
            for x in range(width):
                for c in range(channels):
                    row_total[c] += cotangent[i, y, x, c]
                    row_product[c] += cotangent[i, y, x, c] * (maps[i, y, x, c] - mean[c])
            total += row_total
            product += row_product
        for y in range(height // 2):
            for x in range(width // 2):
                for c in range(channels):
                    value = cotangent[i, 2 * y, 2 * x, c]
                    for k in range(1, 4):
                        other = cotangent[i, 2 * y + k // 2, 2 * x + k % 2, c]
                        value = other if choice[i, y, x, c] == k else value
                    gathered[i, y, x, c] = value


@numba.njit(cache=True, nogil=True)
def _line(maps, slope, shift, out) -> None:  # type: ignore[no-untyped-def]
    """Write slope * maps - shift, channel by channel."""
    n, height, width, channels = maps.shape
    for i in range(n):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    out[i, y, x, c] = slope[c] * maps[i, y, x, c] - shift[c]
