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

On a CPU only; the loops are those of `channels_last`.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewshot.backbones import channels_last


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
    pooled, mean, variance = _PooledMoments.apply(maps, weight.detach())
    return pooled, mean, variance


class _PooledMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled, mean, variance = channels_last.pool_and_moments(maps, weight)
        ctx.save_for_backward(maps, pooled)
        ctx.mean = mean
        return pooled, torch.from_numpy(mean).to(maps.dtype), torch.from_numpy(variance).to(maps.dtype)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        maps, pooled = ctx.saved_tensors
        return _PooledMomentsBackward.apply(maps, pooled.detach(), ctx.mean, *cotangents), None


class _PooledMomentsBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        pooled: Tensor,
        mean: np.ndarray,
        of_pooled: Tensor,
        of_mean: Tensor,
        of_variance: Tensor,
    ) -> Tensor:
        pixels = maps.numel() // maps.shape[1]
        slope = of_variance.numpy() * (2 / pixels)
        constant = of_mean.numpy() / pixels
        of_pooled = of_pooled.contiguous(memory_format=torch.channels_last)
        not_activated = channels_last.OfActivation(of_pooled, pooled, below_zero=1)
        ctx.save_for_backward(maps, pooled)
        ctx.mean, ctx.slope = mean, slope
        return channels_last.scatter_on_line(maps, pooled, not_activated, 1, mean, slope, constant)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        maps, pooled = ctx.saved_tensors
        cotangent = cotangent.contiguous(memory_format=torch.channels_last)
        gathered, total, product = channels_last.gather_and_sums(cotangent, maps, pooled, ctx.mean)
        pixels = maps.numel() // maps.shape[1]
        of_maps = channels_last.line(cotangent, total / pixels, ctx.slope)
        per_channel = (torch.from_numpy(values).to(maps.dtype) for values in (total / pixels, product * (2 / pixels)))
        return of_maps, None, None, gathered, *per_channel
