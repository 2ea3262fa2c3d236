"""A stage of conv4_maml on a CPU as one function: convolution, batch norm, 2x2 max-pool and leaky ReLU.

In each channel, batch norm with batch statistics is an increasing or decreasing affine function, and a leaky ReLU is
increasing, so a max-pool after both selects the same pixels as a pool before them:

    pool(lrelu(w r (y - m) + b)) = lrelu(w r (p - m) + b),      p = pool(y), of the largest where w >= 0, else smallest

for convolved maps y (n pixels per channel) with mean m and r = 1 / sqrt(variance + epsilon). Only the convolution, the
moments and the pool process full-size maps; these small networks are memory-bound, and the second-order inner loop
passes over each map many times.

First derivatives, for the cotangent out' (z is the argument of the activation, scatter(p') is p' at the pixels that the
pool selected and 0 elsewhere; sums are over all images and pixels of a channel):

    z' = lrelu'(z) out'    b' = sum z'    w' = r S    with S = sum z' (p - m)
    y' = w r (scatter(z') - b' / n - r^2 S (y - m) / n)

Second derivatives, those of L = sum u y' for the cotangent u of y'; with U = sum u (y - m) and take(u) = u at the
selected pixels:

    L = w r A,   A = sum take(u) z' - b' sum(u) / n - r^2 S U / n
    of w: r A    of r: w (A - 2 r^2 S U / n)
    of z': w r (take(u) - sum(u) / n - r^2 U (p - m) / n)
    of y: -w r^3 / n (S (u - sum(u) / n) + U (scatter(z') - b' / n)) - r^3 (of r) (y - m) / n

The tasks of `side_by_side` are groups of channels. Shapes: N images, C x H x W and D x H x W maps.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewshot.backbones import stage_kernels as kernels
from fewshot.backbones.compiled_loops import array_of
from fewshot.backbones.direct_gradients import direct_gradients


@dataclass(frozen=True)
class Options:
    """What a stage does not differentiate.

    Attributes:
        groups: of channels, whose convolutions are independent.
        slope: of the leaky ReLU below zero; 0 or more.
        epsilon: added to the variance.
        precision: of the factors and results of convolutions; None: that of the maps, as of all else.
    """

    groups: int
    slope: float
    epsilon: float
    precision: torch.dtype | None = None

    def convolve(self, maps: Tensor, weight: Tensor) -> Tensor:
        """Return the 3x3 convolution, padded by one pixel, in `precision`."""
        precision = self.precision or maps.dtype
        y = F.conv2d(maps.to(precision), weight.to(precision), padding=1, groups=self.groups)
        return y.contiguous(memory_format=torch.channels_last)

    def convolution_backward(
        self, cotangent: Tensor, maps: Tensor, weight: Tensor, *, of_maps: bool, of_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the convolution with respect to maps and weight, where they are wanted."""
        factors = (tensor.to(self.precision or maps.dtype) for tensor in (cotangent, maps, weight))
        found = direct_gradients(*factors, of_maps=of_maps, of_weight=of_weight, groups=self.groups)
        first, second = (None if gradient is None else gradient.to(maps.dtype) for gradient in found)
        return first, second


def pooled_stage(
    maps: Tensor, weight: Tensor, bias: Tensor | None, norm_weight: Tensor, norm_bias: Tensor, options: Options
) -> Tensor:
    """Return lrelu(max_pool(batch_norm(convolve(maps)))) with batch statistics and a 2x2 pool.

    Twice differentiable, except for the gradients of batch norm, which are differentiable once.

    Args:
        maps: (N, C, H, W), float32 or float64, on the CPU.
        weight: of the convolution, (D, C / groups, 3, 3).
        bias: of the convolution, (D,), if any; batch norm cancels it, so that it is not added and its gradient is zero.
        norm_weight: of batch norm, (D,).
        norm_bias: of batch norm, (D,).
        options: groups of channels, slope and epsilon.

    Returns:
        (N, D, H // 2, W // 2).
    """
    # Made contiguous outside the autograd function, which must save its own input for the second derivative.
    maps = maps.contiguous(memory_format=torch.channels_last)
    out: Tensor = _PooledStage.apply(maps, weight, norm_weight, norm_bias, bias, options)
    return out


class _PooledStage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        bias: Tensor | None,
        options: Options,
    ) -> Tensor:
        y = options.convolve(maps, weight)
        n, channels, height, width = y.shape
        p = maps.new_empty((n, height // 2, width // 2, channels)).permute(0, 3, 1, 2)
        choice, out = torch.empty_like(p, dtype=torch.uint8), torch.empty_like(p)
        mean, inverse = torch.empty_like(norm_weight), torch.empty_like(norm_weight)
        inputs = _arrays(y, norm_weight, norm_bias)
        kernels.forward(*inputs, options.epsilon, options.slope, *_arrays(p, choice, out, mean, inverse))
        ctx.save_for_backward(maps, weight, norm_weight, y, p, choice, out, mean, inverse)
        ctx.bias, ctx.options = None if bias is None else bias.detach(), options
        return out

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:2]
        gradients = _PooledStageBackward.apply(of_out, *ctx.saved_tensors, wanted, ctx.options)
        return *gradients, None if ctx.bias is None else torch.zeros_like(ctx.bias), None


class _PooledStageBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        of_out: Tensor,
        maps: Tensor,
        weight: Tensor,
        norm_weight: Tensor,
        y: Tensor,
        p: Tensor,
        choice: Tensor,
        out: Tensor,
        mean: Tensor,
        inverse: Tensor,
        wanted: tuple[bool, bool],
        options: Options,
    ) -> tuple[Tensor | None, ...]:
        of_out = of_out.contiguous(memory_format=torch.channels_last)
        of_z, of_y = torch.empty_like(p), torch.empty_like(y)
        total, product = torch.empty_like(mean), torch.empty_like(mean)
        kernels.first_derivative(
            *_arrays(of_out, y, p, choice, out, norm_weight, mean, inverse),
            options.slope,
            *_arrays(of_z, of_y, total, product),
        )
        of_maps, of_weight = options.convolution_backward(of_y, maps, weight, of_maps=wanted[0], of_weight=wanted[1])
        ctx.save_for_backward(maps, weight, norm_weight, y, p, choice, out, mean, inverse, of_z, of_y, total, product)
        ctx.wanted, ctx.options = wanted, options
        ctx.set_materialize_grads(False)
        return of_maps, of_weight, inverse * product, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        u_maps, u_weight, u_norm_weight, u_norm_bias = cotangents
        if u_norm_weight is not None or u_norm_bias is not None:
            raise NotImplementedError("pooled_stage: the gradients of batch norm can be differentiated only once")
        maps, weight, norm_weight, y, p, choice, out, mean, inverse, of_z, of_y, total, product = ctx.saved_tensors
        options = ctx.options
        need_maps, need_weight = ctx.wanted
        y, of_y = y.to(maps.dtype), of_y.to(maps.dtype)
        u, of_maps, of_weight = None, None, None
        if u_weight is not None:
            u = options.convolve(maps, u_weight)
            of_maps = options.convolution_backward(of_y, maps, u_weight, of_maps=need_maps, of_weight=False)[0]
        if u_maps is not None:
            u_maps = u_maps.contiguous(memory_format=torch.channels_last)
            u = _sum(u, options.convolve(u_maps, weight))
            of_weight = options.convolution_backward(of_y, u_maps, weight, of_maps=False, of_weight=need_weight)[1]
        if u is None:
            return (None,) * 12
        u = u.to(maps.dtype)
        of_out, of_y_again, of_norm_weight = torch.empty_like(p), torch.empty_like(y), torch.empty_like(norm_weight)
        kernels.second_derivative(
            *_arrays(u, y, p, choice, out, of_z, norm_weight, mean, inverse),
            options.slope,
            *_arrays(total, product, of_out, of_y_again, of_norm_weight),
        )
        through_y = options.convolution_backward(of_y_again, maps, weight, of_maps=need_maps, of_weight=need_weight)
        of_maps, of_weight = _sum(of_maps, through_y[0]), _sum(of_weight, through_y[1])
        return of_out, of_maps, of_weight, of_norm_weight, *(None,) * 8


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return the sum of those that are not None; the second is new and may be overwritten."""
    return first if second is None else second if first is None else second.add_(first)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [array_of(tensor) for tensor in tensors]
