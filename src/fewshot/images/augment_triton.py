"""Augmentation as one kernel for NVIDIA GPUs, one program per image; the results equal those of `augment_kernel`.

Gathering, cropping, colour jitter, flipping and normalisation read each stored pixel once and write each result once.
Grey levels are summed exactly, in integers. The kernel must not fuse products and sums (`enable_fp_fusion`), since
PIL rounds in between.

Shapes: R stored images, N augmented images, H x W, 3 channels last.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fewshot.images.augment_draws import TABLE_COLUMNS


def augment_on_gpu(stored: Tensor, table: Tensor, jitter: bool, levels: Tensor) -> Tensor:
    """Crop, jitter, flip and normalise images; arguments and result as `augment_batched.augment_batch`."""
    stored = stored.contiguous()  # the kernel computes addresses itself
    height, width = stored.shape[1:3]
    out = torch.empty(len(table), height, width, 3, device=stored.device)
    block = triton.next_power_of_2(height * width)
    _augment[(len(table),)](
        stored,
        table,
        table.view(torch.float32),
        levels,
        out,
        height,
        width,
        columns=TABLE_COLUMNS,
        jitter=jitter,
        block=block,
        num_warps=min(max(block // 256, 1), 16),
        enable_fp_fusion=False,
    )
    return out


@triton.jit
def _augment(  # type: ignore[no-untyped-def]
    stored,
    table,
    factors,
    levels,
    out,
    height,
    width,
    columns: tl.constexpr,
    jitter: tl.constexpr,
    block: tl.constexpr,
):
    image = tl.program_id(0)
    own = table + image * columns
    n_pixels = height * width
    pixel = tl.arange(0, block)
    valid = pixel < n_pixels
    y, x = pixel // width, pixel % width
    x = tl.where(tl.load(own + 3) != 0, width - 1 - x, x) + tl.load(own + 2)
    y = y + tl.load(own + 1)
    inside = valid & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    source = stored + tl.load(own).to(tl.int64) * n_pixels * 3 + (y * width + x) * 3
    red = tl.load(source, mask=inside, other=0).to(tl.int32)
    green = tl.load(source + 1, mask=inside, other=0).to(tl.int32)
    blue = tl.load(source + 2, mask=inside, other=0).to(tl.int32)
    if jitter:
        order = tl.load(own + 4)
        first, swapped = order // 2, order % 2
        low = tl.where(first == 0, 1, 0)
        high = tl.where(first == 2, 1, 2)
        for place in tl.static_range(3):
            if place == 0:
                operation = first
            elif place == 1:
                operation = tl.where(swapped != 0, high, low)
            else:
                operation = tl.where(swapped != 0, low, high)
            factor = tl.load(factors + image * columns + 5 + operation)
            grey = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
            total = tl.sum(tl.where(valid, grey, 0), 0)
            mean = (2 * total + n_pixels) // (2 * n_pixels)  # rounded half up
            start = tl.where(operation == 2, grey, tl.where(operation == 1, mean, 0)).to(tl.float32)
            red = _blend(start, red, factor)
            green = _blend(start, green, factor)
            blue = _blend(start, blue, factor)
    to = out + image.to(tl.int64) * n_pixels * 3 + pixel * 3
    tl.store(to, tl.load(levels + red), mask=valid)
    tl.store(to + 1, tl.load(levels + 256 + green), mask=valid)
    tl.store(to + 2, tl.load(levels + 512 + blue), mask=valid)


@triton.jit
def _blend(start, end, factor):  # type: ignore[no-untyped-def]
    """Return start + factor * (end - start), clipped and truncated to a level, as in PIL."""
    value = (end.to(tl.float32) - start) * factor + start
    return tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.int32)
