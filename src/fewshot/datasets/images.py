"""Image files to arrays, with limits for untrusted files."""

import io
import warnings

import numpy as np
from PIL import Image

from fewshot.errors import DataError, reason_of

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
MAX_PIXELS = 40_000_000
MAX_FILE_BYTES = 64 << 20


def is_image_name(name: str) -> bool:
    """Return whether a file should be an image, judged by its suffix."""
    return name.lower().endswith(SUFFIXES)


def decode_image(content: bytes, origin: str) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        content: bytes of the file.
        origin: name of the file in errors.

    Raises:
        DataError: if it is damaged, of an unknown format, or declares more than `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width} x {image.height}"
                raise DataError(
                    f"{origin} declares {size} pixels, at most {MAX_PIXELS:,} are decoded; shrink or remove it"
                )
            return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly any exception on damaged files
        raise DataError(
            f"{origin} is not a readable image ({reason_of(error)}); fetch it again or remove it"
        ) from error


def resize_square(image: Image.Image, size: int) -> np.ndarray:
    """Resize to (size, size, 3) uint8, both sides independently, with Pillow's default filter (bicubic).

    The published loaders do the same with photographs; an image that already has this size is unchanged.
    """
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def crop_square(image: Image.Image, size: int) -> np.ndarray:
    """Crop the central square and resize it to (size, size, 3) uint8."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return resize_square(image.crop((left, top, left + side, top + side)), size)
