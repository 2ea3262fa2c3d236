"""Augmentation on the CPU: one pass per image, bit for bit what torchvision does to PIL images with the same draws.

PIL keeps 8 bits between operations and truncates; so does this kernel. The reference sequence (MetaOptNet) is
RandomCrop with black padding, ColorJitter (brightness, contrast, saturation in random order), RandomHorizontalFlip,
ToTensor, Normalize. The flip moves to the crop: every operation between the two is blind to the place of a pixel.

Shapes: N images, h x w side before and H x W after the crop, 3 channels last.
"""

import numba
import numpy as np

from fewshot.augment_draws import BRIGHTNESS, CONTRAST, JITTER_ORDERS, Draws


def augment_images(images: np.ndarray, draws: Draws, crop_padding: int, jitter: bool, table: np.ndarray) -> np.ndarray:
    """Augment and normalise images.

    Args:
        images: (N, H, W, 3) uint8.
        draws: for N images.
        crop_padding: pixels of black border the crop may reach into.
        jitter: whether the colour factors of `draws` are applied.
        table: (3, 256) float32, normalised value of each level and channel.

    Returns:
        (N, H, W, 3) float32.
    """
    out = np.empty(images.shape, np.float32)
    factors, order, flip = draws.factors, JITTER_ORDERS[draws.order], draws.flip
    _augment(images, draws.top - crop_padding, draws.left - crop_padding, flip, jitter, factors, order, table, out)
    return out


def normalize_images(images: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return images (N, H, W, 3) uint8 as normalised float32, through `table` (3, 256)."""
    out = np.empty(images.shape, np.float32)
    _normalize(images.reshape(-1, 3), table, out.reshape(-1, 3))
    return out


@numba.njit(cache=True, nogil=True)
def _normalize(pixels, table, out) -> None:  # type: ignore[no-untyped-def]
    for p in range(len(pixels)):
        for c in range(3):
            out[p, c] = table[c, pixels[p, c]]


@numba.njit(cache=True, nogil=True)
def _augment(images, top, left, flip, jitter, factors, order, table, out) -> None:  # type: ignore[no-untyped-def]
    height, width = images.shape[1], images.shape[2]
    planes = np.empty((3, height * width), np.uint8)
    for i in range(len(images)):
        _crop(images[i], top[i], left[i], flip[i], planes)
        if jitter:
            for k in range(3):
                _jitter(planes, order[i, k], factors[i, order[i, k]])
        pixels = out[i].reshape(height * width, 3)
        for p in range(height * width):
            for c in range(3):
                pixels[p, c] = table[c, planes[c, p]]


@numba.njit(cache=True, nogil=True)
def _crop(image, top, left, flip, planes) -> None:  # type: ignore[no-untyped-def]
    """Fill `planes` (3, H * W) with the window of `image` at (top, left), black outside, mirrored if `flip`."""
    height, width = image.shape[0], image.shape[1]
    planes[:] = 0
    for y in range(max(0, -top), min(height, height - top)):
        for x in range(max(0, -left), min(width, width - left)):
            p = y * width + (width - 1 - x if flip else x)
            for c in range(3):
                planes[c, p] = image[y + top, x + left, c]


@numba.njit(cache=True, nogil=True)
def _jitter(planes, operation, factor) -> None:  # type: ignore[no-untyped-def]
    """Apply one colour operation in place: blend with black, with the mean grey, or with the pixel's own grey."""
    n = planes.shape[1]
    if operation == BRIGHTNESS:
        for c in range(3):
            for p in range(n):
                planes[c, p] = _blend(np.float32(0), np.float32(planes[c, p]), factor)
    elif operation == CONTRAST:
        total = 0
        for p in range(n):
            total += _grey(planes[0, p], planes[1, p], planes[2, p])
        mean = np.float32(int(total / n + 0.5))
        for c in range(3):
            for p in range(n):
                planes[c, p] = _blend(mean, np.float32(planes[c, p]), factor)
    else:
        for p in range(n):
            grey = np.float32(_grey(planes[0, p], planes[1, p], planes[2, p]))
            for c in range(3):
                planes[c, p] = _blend(grey, np.float32(planes[c, p]), factor)


@numba.njit(inline="always")
def _grey(red, green, blue):  # type: ignore[no-untyped-def]
    """Return the luma of a pixel as PIL rounds it (ITU-R 601-2, 16 fractional bits)."""
    return (np.int32(red) * 19595 + np.int32(green) * 38470 + np.int32(blue) * 7471 + 32768) >> 16


@numba.njit(inline="always")
def _blend(start, end, factor):  # type: ignore[no-untyped-def]
    """Return start + factor * (end - start) in single precision, clipped and truncated to a level, as PIL does."""
    value = start + factor * (end - start)
    return np.uint8(min(max(value, np.float32(0)), np.float32(255)))
