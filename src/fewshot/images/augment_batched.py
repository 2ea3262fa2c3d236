"""Augmentation of a whole batch with torch operations and separate draws for each image: the version for accelerators.

Values are truncated to 8 bits between operations, as in PIL, so the results equal those of `augment_kernel`. Grey
levels are summed exactly, in integers; products and sums are separate operations, which are not fused.

Shapes: N images, H x W, 3 channels last.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.images.augment_draws import BRIGHTNESS, JITTER_ORDERS, SATURATION, Draws


def augment_batch(images: Tensor, draws: Draws, crop_padding: int, jitter: bool) -> Tensor:
    """Crop, jitter and flip images on their device.

    Args:
        images: (N, H, W, 3) uint8.
        draws: draws for N images.
        crop_padding: width of the black border added before the crop, pixels.
        jitter: whether to apply the colour factors of `draws`.

    Returns:
        (N, H, W, 3) float32, integer levels 0 .. 255.
    """
    levels = _crop_and_flip(images, draws, crop_padding).float()
    if not jitter:
        return levels
    factors = torch.from_numpy(draws.factors).to(images.device)
    order = torch.from_numpy(JITTER_ORDERS[draws.order]).to(images.device)
    for operation in order.unbind(1):
        levels = _jitter(levels, operation, factors.gather(1, operation[:, None])[:, :, None, None])
    return levels


def normalize_batch(levels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (level / 255 - mean) / std of images (N, H, W, 3), float32, rounded as in torchvision."""
    # On CUDA, division by a host scalar would become a multiplication by its rounded reciprocal.
    scale, mean_, std_ = (torch.tensor(value, device=levels.device) for value in (255.0, tuple(mean), tuple(std)))
    return (levels / scale).sub_(mean_).div_(std_)


def _crop_and_flip(images: Tensor, draws: Draws, crop_padding: int) -> Tensor:
    """Gather each image's crop, black outside the image, flipped if drawn; flipping commutes with the colour jitter."""
    n, height, width, _ = images.shape
    device = images.device
    top, left, flip = (torch.from_numpy(part).to(device) for part in (draws.top, draws.left, draws.flip))
    rows = torch.arange(height, device=device) + (top - crop_padding)[:, None]
    columns = torch.arange(width, device=device).expand(n, -1)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + (left - crop_padding)[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    number = torch.arange(n, device=device)[:, None, None]
    window = images[number, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    return window * inside[..., None]


def _jitter(levels: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with black, with its mean grey, or with each pixel's own grey.

    Args:
        levels: (N, H, W, 3) float32, integer levels.
        operation: (N,), index of the operation for each image.
        factor: (N, 1, 1, 1) float32.
    """
    red, green, blue = levels.int().unbind(-1)
    grey = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
    mean = (grey.sum((1, 2), keepdim=True).double() / grey[0].numel() + 0.5).floor().float()
    operation = operation[:, None, None]
    start = (
        torch.where(operation == SATURATION, grey.float(), mean).masked_fill(operation == BRIGHTNESS, 0).unsqueeze(-1)
    )
    return ((levels - start) * factor + start).clamp_(0, 255).floor_()
