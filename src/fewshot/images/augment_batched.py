"""Augmentation of a whole batch with torch operations and separate draws for each image: the version for accelerators.

Values are truncated to 8 bits between operations, as in PIL, so the results equal those of `augment_kernel`. Grey
levels are summed exactly, in integers; products and sums are separate operations, which are not fused.

Shapes: R stored images, N augmented images, H x W, 3 channels last.
"""

import torch
from torch import Tensor

from fewshot.images.augment_draws import BRIGHTNESS, SATURATION


def augment_batch(stored: Tensor, table: Tensor, jitter: bool, levels: Tensor) -> Tensor:
    """Crop, jitter, flip and normalise images on their device.

    Args:
        stored: (R, H, W, 3) uint8.
        table: (N, TABLE_COLUMNS) int32, see `Draws.table`.
        jitter: whether to apply the colour factors.
        levels: (3, 256) float32, normalised value for each channel and level.

    Returns:
        (N, H, W, 3) float32.
    """
    images = _crop_and_flip(stored, table)
    if not jitter:
        return normalize_batch(images, levels)
    values, factors = images.float(), table[:, 5:].view(torch.float32)
    for operation in jitter_orders(table[:, 4]).unbind(1):
        values = _jitter(values, operation, factors.gather(1, operation[:, None])[:, :, None, None])
    return normalize_batch(values, levels)


def normalize_batch(images: Tensor, levels: Tensor) -> Tensor:
    """Return images (N, H, W, 3) of whole levels, looked up in `levels` (3, 256)."""
    return levels[torch.arange(3, device=images.device), images.long()]


def _crop_and_flip(stored: Tensor, table: Tensor) -> Tensor:
    """Gather each image's crop, black outside the image, flipped if drawn; flipping commutes with the colour jitter."""
    height, width = stored.shape[1:3]
    image, top, left, flip, *_ = table.long().unbind(1)
    rows = torch.arange(height, device=stored.device) + top[:, None]
    columns = torch.arange(width, device=stored.device).expand(len(table), -1)
    columns = torch.where(flip[:, None] != 0, width - 1 - columns, columns) + left[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    window = stored[image[:, None, None], rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
    return window * inside[..., None]


def jitter_orders(order: Tensor) -> Tensor:
    """Return rows (N,) of `JITTER_ORDERS`, (N, 3): computed, because a table would have to be copied to the device."""
    first = order // 2
    low, high = (first == 0).long(), 2 - (first == 2).long()  # the other two operations, the smaller one first
    swapped = order % 2 == 1
    return torch.stack([first, torch.where(swapped, high, low), torch.where(swapped, low, high)], 1).long()


def _jitter(values: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with black, with its mean grey, or with each pixel's own grey.

    Args:
        values: (N, H, W, 3) float32, whole levels.
        operation: (N,), index of the operation for each image.
        factor: (N, 1, 1, 1) float32.
    """
    red, green, blue = values.int().unbind(-1)
    grey = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
    mean = (grey.sum((1, 2), keepdim=True).double() / grey[0].numel() + 0.5).floor().float()
    operation = operation[:, None, None]
    start = (
        torch.where(operation == SATURATION, grey.float(), mean).masked_fill(operation == BRIGHTNESS, 0).unsqueeze(-1)
    )
    return ((values - start) * factor + start).clamp_(0, 255).floor_()
