"""Image files to arrays, with the limits that files from strangers need."""

import io
import warnings

import numpy as np
from PIL import Image

from fewshot.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
MAX_PIXELS = 40_000_000
MAX_FILE_BYTES = 64 << 20


def is_image_name(name: str) -> bool:
    """Tell by its suffix whether a file is meant to be an image."""
    return name.lower().endswith(SUFFIXES)


def decode_image(content: bytes, origin: str) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        content: of the file.
        origin: named in errors.

    Raises:
        DataError: if it is damaged, of an unknown format, or claims more pixels than any photograph here has.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width} x {image.height}"
                raise DataError(
                    f"{origin} claims {size} pixels, at most {MAX_PIXELS:,} are decoded; shrink or remove it"
                )
            return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        raise DataError(f"{origin} is no readable image ({error}); fetch it again or remove it") from error


def resize_square(image: Image.Image, size: int) -> np.ndarray:
    """Resize to (size, size, 3) uint8, both sides independently, with Pillow's default filter (bicubic).

    This is what the published loaders do with photographs; an image of that size already is left as it is.
    """
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def crop_square(image: Image.Image, size: int) -> np.ndarray:
    """Cut the middle square and resize it to (size, size, 3) uint8."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return resize_square(image.crop((left, top, left + side, top + side)), size)
