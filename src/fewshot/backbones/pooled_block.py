"""Convolution, batch norm, 2x2 max-pool and leaky ReLU as one block, which trains on a CPU in few passes over its maps.

In each channel, batch norm is an increasing or decreasing affine function and a leaky ReLU is increasing, so a pool
before them selects the same pixels (see `pooled_stage`). Then the convolution's output is read once forwards, to pool
it and to sum it for mean and variance, and once backwards. With pooled maps p, cotangent z of the activation's input,
mean m, scale s = 1 / sqrt(variance + epsilon), and n pixels per channel:

    forward     out = lrelu(w s (p - m) + b)
    backward    b' = sum(z),    w' = s sum(z (p - m)),    x' = w s (scatter(z) - b' / n - s w' (x - m) / n)

Statistics and all other values per channel are computed in float64, also for maps in bfloat16.

Shapes: N images, C x H x W (input) and D x H x W (convolved) maps.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones import channels_last
from fewshot.backbones.plain_calls import is_plain_call

MOST_THREADS = 2
"""On one thread, the loops take 0.4 of the time of torch's operations, which share their work among all threads."""


class PooledBlock(nn.Sequential):
    """3x3 convolution, batch norm, 2x2 max-pool and leaky ReLU.

    The papers apply the activation before pooling; both orders give the same values and gradients, and this one is
    cheaper. In training on a CPU, hooks of the layers behind the convolution are not called. Second derivatives, other
    devices, more than `MOST_THREADS` threads, tracing and the transforms of `torch.func` use these layers.

    Args:
        convolution: the first layer, D output channels.
        slope: slope of the activation below zero; 0 is a ReLU, 1 no activation.
    """

    def __init__(self, convolution: nn.Conv2d, slope: float) -> None:
        layers: list[nn.Module] = [convolution, nn.BatchNorm2d(convolution.out_channels), nn.MaxPool2d(2)]
        if slope != 1:
            layers.append(nn.ReLU(inplace=True) if slope == 0 else nn.LeakyReLU(slope, inplace=True))
        super().__init__(*layers)
        self.slope = slope

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (N, D, H // 2, W // 2) of maps (N, C, H, W)."""
        convolution, norm, *others = self
        maps = convolution(maps)
        if type(norm) is nn.BatchNorm2d and norm.training and _takes_compiled_loops(maps):
            return _normalized_pool(maps, norm, self.slope)
        maps = norm(maps)
        for layer in others:
            maps = layer(maps)
        return maps


def _takes_compiled_loops(maps: Tensor) -> bool:
    return is_plain_call(maps) and maps.dtype in channels_last.DTYPES and torch.get_num_threads() <= MOST_THREADS


def _normalized_pool(maps: Tensor, norm: nn.BatchNorm2d, slope: float) -> Tensor:
    """Return the leaky ReLU of the pooled, batch-normalised maps; update the running statistics."""
    maps = maps.contiguous(memory_format=torch.channels_last)
    moments = channels_last.pool_and_moments(maps, norm.weight)
    if norm.running_mean is not None:
        _update_running_statistics(norm, moments, maps.numel() // maps.shape[1])
    out: Tensor = _NormalizedPool.apply(maps, norm.weight, norm.bias, moments, norm.eps, slope)
    return out


@torch.no_grad()
def _update_running_statistics(norm: nn.BatchNorm2d, moments: channels_last.PooledMoments, pixels: int) -> None:
    """Do what `norm` does in training; `pixels` is the number per channel, over all images."""
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.num_batches_tracked.add_(1)
    rate = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    unbiased = moments.variance * (pixels / (pixels - 1))
    norm.running_mean.lerp_(torch.from_numpy(moments.mean).to(norm.running_mean.dtype), rate)
    norm.running_var.lerp_(torch.from_numpy(unbiased).to(norm.running_var.dtype), rate)


class _NormalizedPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor,
        moments: channels_last.PooledMoments,
        epsilon: float,
        slope: float,
    ) -> Tensor:
        scale = 1 / np.sqrt(moments.variance + epsilon)
        factor = weight.detach().double().numpy() * scale
        out = channels_last.line(moments.pooled, moments.mean, factor, bias.detach().double().numpy(), slope)
        ctx.save_for_backward(maps, weight, bias, moments.pooled, out)
        ctx.mean, ctx.scale, ctx.factor, ctx.epsilon, ctx.slope = moments.mean, scale, factor, epsilon, slope
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, bias, pooled, out = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return _differentiable_gradients(cotangent, maps, weight, bias, ctx.epsilon, ctx.slope)
        cotangent = cotangent.contiguous(memory_format=torch.channels_last)
        of_activation = channels_last.OfActivation(cotangent, out, ctx.slope)
        of_bias, product = channels_last.sums(of_activation, pooled, ctx.mean)
        of_weight, pixels = ctx.scale * product, maps.numel() // maps.shape[1]
        line = -ctx.factor * ctx.scale * of_weight / pixels, -ctx.factor * of_bias / pixels
        of_maps = channels_last.scatter_on_line(maps, pooled, of_activation, ctx.factor, ctx.mean, *line)
        of_parameters = (torch.from_numpy(values).to(weight.dtype) for values in (of_weight, of_bias))
        return of_maps, *of_parameters, None, None, None


def _differentiable_gradients(
    cotangent: Tensor, maps: Tensor, weight: Tensor, bias: Tensor, epsilon: float, slope: float
) -> tuple[Tensor | None, ...]:
    """Return what `backward` does, computed by torch's own operations, which autograd differentiates again."""
    normalized = F.batch_norm(maps, None, None, weight, bias, training=True, eps=epsilon)
    out = F.leaky_relu(F.max_pool2d(normalized, 2), slope)
    wanted = [tensor for tensor in (maps, weight, bias) if tensor.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, cotangent, create_graph=True))
    gradients = (next(found) if tensor.requires_grad else None for tensor in (maps, weight, bias))
    return *gradients, None, None, None
