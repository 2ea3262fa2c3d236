"""3x3 convolution of small maps as one matrix product, forward and backward, for bfloat16 on a CPU.

The pixels that a kernel sees are copied into a row of a matrix ("columns", im2col); the product with the kernels is the
convolution. The copies are nine times the maps, so the form pays only where a map is small and its channels many, and
where the product is fast: on a core with AMX. Without it 640 channels of 4 x 4 run at 0.8 to 0.9 of the speed of
torch's convolution (measured with ONEDNN_MAX_CPU_ISA).

Shapes: N images, C x H x W (input) and D x H x W (output) maps.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.backbones.direct_gradients import direct_gradients

# Largest map of which all three products are faster this way than by oneDNN, and of which the weights' gradient is
# (docs/benchmarks/convolutions.md).
LARGEST_MAP = 5 * 5
LARGEST_MAP_OF_WEIGHT = 10 * 10


def convolve_columns(maps: Tensor, weight: Tensor) -> Tensor:
    """Convolve maps (N, C, H, W) with weights (D, C, 3, 3), padded by one pixel; return (N, D, H, W).

    Second derivatives are those of torch's convolution.
    """
    out: Tensor = _Columns.apply(maps, weight)
    return out


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        if _area(maps) > LARGEST_MAP:
            return F.conv2d(maps, weight, padding=1)
        return _as_maps(_columns(maps) @ _rows(weight).T, maps)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None]:
        maps, weight = ctx.saved_tensors
        of_maps, of_weight = ctx.needs_input_grad
        if torch.is_grad_enabled():  # the gradients will be differentiated
            return direct_gradients(cotangent, maps, weight, of_maps=of_maps, of_weight=of_weight)
        if _area(maps) > LARGEST_MAP:
            gradient, _ = direct_gradients(cotangent, maps, weight, of_maps=of_maps, of_weight=False)
        else:
            gradient = _gradient_of_maps(cotangent, weight) if of_maps else None
        return gradient, _gradient_of_weight(cotangent, maps) if of_weight else None


def _gradient_of_maps(cotangent: Tensor, weight: Tensor) -> Tensor:
    """Return the convolution of the cotangent with the kernels turned by 180 degrees, inputs and outputs exchanged."""
    taps = weight.permute(2, 3, 0, 1).flatten(0, 1)  # (9, D, C)
    turned = torch.cat(taps.unbind()[::-1])
    return _as_maps(_columns(cotangent) @ turned, cotangent)


def _gradient_of_weight(cotangent: Tensor, maps: Tensor) -> Tensor:
    # The copy makes the product up to twice as fast.
    pixels_last = _pixels(cotangent).T.contiguous()
    gradient = pixels_last @ _columns(maps)
    return gradient.view(len(pixels_last), 3, 3, -1).permute(0, 3, 1, 2)


def _columns(maps: Tensor) -> Tensor:
    """Return the 3 x 3 pixels around each pixel, (N * H * W, 9 * C), zero outside the map."""
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (N, H, W, C, 3, 3)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * maps.shape[1])


def _rows(weight: Tensor) -> Tensor:
    """Return kernels in the order of the columns, (D, 9 * C)."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _pixels(maps: Tensor) -> Tensor:
    """Return the channels of each pixel, (N * H * W, C)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _as_maps(pixels: Tensor, like: Tensor) -> Tensor:
    """Return pixels (N * H * W, D) as maps (N, D, H, W) of the images and size of other maps."""
    images, _, height, width = like.shape
    return pixels.view(images, height, width, -1).permute(0, 3, 1, 2)


def _area(maps: Tensor) -> int:
    return maps.shape[2] * maps.shape[3]
