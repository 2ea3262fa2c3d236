"""3x3 convolution and batch norm for accelerators, whose first and second derivatives need few kernels.

A second-order inner loop on small maps spends its time launching kernels. torch computes the second derivative of a
convolution by convolutions whose kernels are as large as the maps, one per group, and that of batch norm by some fifty
elementary operations. Here they are written out.

Shapes: N images, C x H x W (input) and D x h x w (output) maps.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

Slot = Literal["maps", "weight", "output"]
SLOTS: tuple[Slot, ...] = ("maps", "weight", "output")


def convolve(maps: Tensor, weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolve maps (N, C, H, W) with weights (D, C / groups, 3, 3), padded by one pixel; return (N, D, h, w)."""
    out: Tensor = _Convolution.apply("output", maps, weight, torch.Size(), stride, groups)
    return out


def batch_norm(maps: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalise maps (N, C, H, W) by mean and variance of each channel, then scale and shift them by (C,) each.

    Twice differentiable, except for the gradients of weight and bias, which are differentiable once.
    """
    normalized: Tensor = _BatchNorm.apply(maps, weight, bias, epsilon)
    return normalized


class _Convolution(torch.autograd.Function):
    """The gradient of f(x, w, y) = sum(convolution(x, w) * y) with respect to one argument, at the other two.

    With respect to y, it is the convolution. Since f is linear in each argument, the derivatives of each gradient are
    the gradients with respect to the others.
    """

    @staticmethod
    def forward(
        ctx: Any, wanted: Slot, first: Tensor, second: Tensor, shape: torch.Size, stride: int, groups: int
    ) -> Tensor:
        """Return the gradient, of this shape (unused for y); `first` and `second` are the others, in order x, w, y."""
        ctx.wanted, ctx.stride, ctx.groups = wanted, stride, groups
        ctx.save_for_backward(first, second)
        if wanted == "output":
            return F.conv2d(first, second, stride=stride, padding=1, groups=groups)
        if wanted == "maps":
            return conv2d_input(shape, first, second, stride=stride, padding=1, groups=groups)
        return conv2d_weight(first, shape, second, stride=stride, padding=1, groups=groups)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        others = [slot for slot in SLOTS if slot != ctx.wanted]
        known = dict(zip(others, ctx.saved_tensors, strict=True)) | {ctx.wanted: cotangent}

        def gradient(wanted: Slot) -> Tensor:
            first, second = (known[slot] for slot in SLOTS if slot != wanted)
            out: Tensor = _Convolution.apply(wanted, first, second, known[wanted].shape, ctx.stride, ctx.groups)
            return out

        needed = zip(others, ctx.needs_input_grad[1:3], strict=True)
        return None, *(gradient(slot) if is_needed else None for slot, is_needed in needed), None, None, None


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        normalized, mean, scale = torch.native_batch_norm(maps, weight, bias, None, None, True, 0.0, epsilon)
        ctx.save_for_backward(maps, weight, mean, scale)
        ctx.epsilon = epsilon
        return normalized

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return *_BatchNormBackward.apply(cotangent, *ctx.saved_tensors, ctx.epsilon), None


class _BatchNormBackward(torch.autograd.Function):
    """First derivatives: with scale s, standardised maps x^ = (x - mean) s and P(z) = z - mean(z) - x^ mean(z x^),

    x' = w s P(y'),    w' = sum(y' x^),    b' = sum(y').
    """

    @staticmethod
    def forward(
        ctx: Any, cotangent: Tensor, maps: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_maps, of_weight, of_bias = _first_derivatives(cotangent, maps, weight, mean, scale, epsilon)
        ctx.save_for_backward(cotangent, maps, weight, mean, scale, of_weight, of_bias)
        ctx.epsilon = epsilon
        ctx.set_materialize_grads(False)
        return of_maps, of_weight, of_bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, of_weight: None, of_bias: None) -> tuple[Tensor | None, ...]:
        """Differentiate sum(u x').

        With g = y', cov = sum(u g) - sum(u) sum(g) / n, and a, b = sum(u x^), sum(g x^):
            of g: w s P(u)
            of w: s sum(u P(g)) = s (cov - a b / n)
            of x: w s^2 / n (b (mean(u) - u) + a (mean(g) - g) - (cov - 3 a b / n) x^)
        """
        if of_weight is not None or of_bias is not None:
            raise NotImplementedError("batch_norm: the gradients of weight and bias can be differentiated only once")
        if u is None:
            return (None,) * 6
        g, maps, weight, mean, scale, b, sum_g = ctx.saved_tensors
        n = maps.numel() // maps.shape[1]
        of_g, a, sum_u = _first_derivatives(u, maps, weight, mean, scale, ctx.epsilon)
        covariance = torch.addcmul((u * g).sum((0, 2, 3)), sum_u, sum_g, value=-1 / n)
        of_weight = scale * torch.addcmul(covariance, a, b, value=-1 / n)
        # of x: -(slope x + times_u u + times_g g) + constant, whose mean is zero
        factor = weight / n * scale * scale
        slope = factor * scale * torch.addcmul(covariance, a, b, value=-3 / n)
        times_u, times_g = factor * b, factor * a
        constant = torch.addcmul(slope * mean, times_u, sum_u, value=1 / n)
        constant = torch.addcmul(constant, times_g, sum_g, value=1 / n)
        of_maps = torch.addcmul(_channels(constant), maps, _channels(slope), value=-1)
        of_maps = torch.addcmul(of_maps, u, _channels(times_u), value=-1)
        of_maps = torch.addcmul(of_maps, g, _channels(times_g), value=-1)
        return of_g, of_maps, of_weight, None, None, None


def _first_derivatives(
    cotangent: Tensor, maps: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x', w' and b'."""
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        cotangent, maps, weight, None, None, mean, scale, True, epsilon, [True, True, True]
    )
    return out


def _channels(values: Tensor) -> Tensor:
    """Return values (C,) in a shape that multiplies maps."""
    return values[:, None, None]
