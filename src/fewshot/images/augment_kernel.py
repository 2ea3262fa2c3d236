"""Augmentation on the CPU in one pass per image, bit-identical to torchvision on PIL images with the same draws.

Like PIL, this kernel truncates to 8 bits between operations. The reference sequence (MetaOptNet) is RandomCrop with
black padding, ColorJitter (brightness, contrast, saturation in random order), RandomHorizontalFlip, ToTensor and
Normalize.

Shapes: N images, H x W, 3 channels last.
"""

import numba
import numpy as np

from fewshot.images.augment_draws import CONTRAST, JITTER_ORDERS, SATURATION, Draws


def augment_images(images: np.ndarray, draws: Draws, crop_padding: int, jitter: bool, levels: np.ndarray) -> np.ndarray:
    """Augment and normalise images.

    Args:
        images: (N, H, W, 3) uint8.
        draws: draws for N images.
        crop_padding: width of the black border added before the crop, pixels.
        jitter: whether to apply the colour factors of `draws`.
        levels: (3, 256) float32, normalised value for each channel and level.

    Returns:
        (N, H, W, 3) float32.
    """
    images, out = np.ascontiguousarray(images), np.empty(images.shape, np.float32)
    factors, order, flip = draws.factors, JITTER_ORDERS[draws.order], draws.flip
    _augment(images, draws.top - crop_padding, draws.left - crop_padding, flip, jitter, factors, order, levels, out)
    return out


def normalize_images(images: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return images (N, H, W, 3) uint8 as normalised float32, looked up in `levels` (3, 256)."""
    out = np.empty(images.shape, np.float32)
    _normalize(np.ascontiguousarray(images).reshape(-1, 3), levels, out.reshape(-1, 3))
    return out


@numba.njit(cache=True, nogil=True)
def _normalize(pixels, levels, out) -> None:  # type: ignore[no-untyped-def]
    for p in range(len(pixels)):
        for c in range(3):
            out[p, c] = levels[c, pixels[p, c]]


@numba.njit(cache=True, nogil=True)
def _augment(images, top, left, flip, jitter, factors, order, levels, out) -> None:  # type: ignore[no-untyped-def]
    height, width = images.shape[1], images.shape[2]
    planes, grey = np.empty((3, height * width), np.uint8), np.empty(height * width, np.uint8)
    for i in range(len(images)):
        _crop(images[i], top[i], left[i], planes)
        if jitter:
            for operation in order[i]:
                _jitter(planes, grey, operation, factors[i, operation])
        _write(planes, flip[i], levels, out[i])


@numba.njit(cache=True, nogil=True)
def _crop(image, top, left, planes) -> None:  # type: ignore[no-untyped-def]
    """Fill `planes` (3, H * W) with the crop of `image` at (top, left), black outside the image."""
    height, width = image.shape[0], image.shape[1]
    planes[:] = 0
    values = image.reshape(-1)
    first, n = max(0, -left), width - abs(left)
    for y in range(max(0, -top), min(height, height - top)):
        source = values[((y + top) * width + left + first) * 3 :]
        for c in range(3):
            target = planes[c, y * width + first : y * width + first + n]
            for x in range(n):
                target[x] = source[3 * x + c]


@numba.njit(cache=True, nogil=True)
def _write(planes, flip, levels, out) -> None:  # type: ignore[no-untyped-def]
    """Write the `levels` values of `planes` (3, H * W) to `out` (H, W, 3), flipped horizontally if `flip`."""
    height, width = out.shape[0], out.shape[1]
    red, green, blue = planes[0], planes[1], planes[2]
    for y in range(height):
        for x in range(width):
            p = y * width + x
            pixel = out[y, width - 1 - x if flip else x]
            pixel[0], pixel[1], pixel[2] = levels[0, red[p]], levels[1, green[p]], levels[2, blue[p]]


# The loops below are simple enough for LLVM to vectorise; looping over channels inside the loop over pixels would be
# eight times slower.


@numba.njit(cache=True, nogil=True)
def _jitter(planes, grey, operation, factor) -> None:  # type: ignore[no-untyped-def]
    """Apply one colour operation in place: blend with black, with the mean grey, or with each pixel's own grey."""
    if operation == SATURATION:
        _fill_grey(planes, grey)
        for c in range(3):
            plane = planes[c]
            for p in range(len(plane)):
                plane[p] = _blend(np.float32(grey[p]), np.float32(plane[p]), factor)
        return
    start = np.float32(0)
    if operation == CONTRAST:
        _fill_grey(planes, grey)
        start = np.float32(int(grey.sum() / len(grey) + 0.5))
    for c in range(3):
        plane = planes[c]
        for p in range(len(plane)):
            plane[p] = _blend(start, np.float32(plane[p]), factor)


@numba.njit(cache=True, nogil=True)
def _fill_grey(planes, grey) -> None:  # type: ignore[no-untyped-def]
    """Fill `grey` (n,) with the luma of `planes` (3, n), rounded as in PIL: ITU-R 601-2 with 16 fractional bits."""
    red, green, blue = planes[0], planes[1], planes[2]
    for p in range(len(grey)):
        luma = np.int32(red[p]) * 19595 + np.int32(green[p]) * 38470 + np.int32(blue[p]) * 7471 + 32768
        grey[p] = np.uint8(luma >> 16)


@numba.njit(inline="always")
def _blend(start, end, factor):  # type: ignore[no-untyped-def]
    """Return start + factor * (end - start) in single precision, clipped and truncated to a level, as in PIL."""
    value = start + factor * (end - start)
    return np.uint8(min(max(value, np.float32(0)), np.float32(255)))
