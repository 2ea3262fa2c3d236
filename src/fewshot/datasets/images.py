"""Image files to RGB arrays, with limits for untrusted files; the table in docs/data.md lists every conversion."""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from fewshot.errors import DataError, reason_of

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
MAX_PIXELS = 40_000_000
MAX_FILE_BYTES = 64 << 20
BROKEN_SHOWN = 20

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
# Pillow before 11.3 also opens 16-bit PNG files in mode "I"; elsewhere its range is that of 32 bits.
SIXTEEN_BITS_AS_I = ("PNG", "PPM")
COLOURS = {"CMYK": "CMYK", "YCbCr": "YCbCr", "P": "palette", "PA": "palette"}
PLAIN = ("1", "L", "LA", "RGB", "RGBA", "RGBX", "RGBa")
UNKNOWN_RANGE = {
    "F": "floating-point pixels of no known range",
    "I": "32-bit integer pixels of no known range",
}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Picture(NamedTuple):
    """A decoded image in mode RGB, and what had to be converted: "16-bit grey", "transparent" and so on."""

    image: Image.Image
    converted: tuple[str, ...]


class BrokenImageError(DataError):
    """An image that cannot be used; `reason` completes the sentence that its name begins."""

    def __init__(self, origin: str, reason: str, remedy: str = "fetch it again or remove it") -> None:
        super().__init__(f"{origin} {reason}; {remedy}")
        self.reason = reason


def is_image_name(name: str) -> bool:
    """Return whether a file should be an image, judged by its suffix."""
    return name.lower().endswith(SUFFIXES)


def decode_image(content: bytes, origin: str) -> Picture:
    """Decode an image file to RGB.

    Args:
        content: bytes of the file.
        origin: name of the file in errors.

    Raises:
        BrokenImageError: if it is damaged, of an unknown format, has pixels of no known range, or declares more than
            `MAX_PIXELS` pixels.
    """
    with _refusal(origin), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width} x {image.height}"
            raise BrokenImageError(
                origin, f"declares {size} pixels, at most {MAX_PIXELS:,} are decoded", "shrink or remove it"
            )
        return convert_image(image, origin)


@contextmanager
def _refusal(origin: str) -> Iterator[None]:
    """Turn whatever Pillow raises into a `BrokenImageError`: its decoders raise nearly any exception."""
    try:
        yield
    except BrokenImageError:
        raise
    except UnidentifiedImageError:
        raise BrokenImageError(origin, f"is not a readable image (none of {', '.join(FORMATS)})") from None
    except Exception as error:
        raise BrokenImageError(origin, f"is not a readable image ({reason_of(error)})") from error


def convert_image(image: Image.Image, origin: str) -> Picture:
    """Convert an opened image to RGB: upright, its first frame, transparent parts on white, 16 bits scaled to 8.

    Raises:
        BrokenImageError: if it is damaged, or its pixels have no known range, as in mode F.
    """
    with _refusal(origin):
        if 0 in image.size:
            raise BrokenImageError(origin, "has no pixels")
        declared = {  # Pillow forgets the layout in the file when it loads the pixels, even to read EXIF data
            "16-bit colour": ";16" in _raw_mode(image) and image.mode in PLAIN,
            "first of several frames": getattr(image, "is_animated", False),
            "turned by EXIF orientation": _orientation(image) in TURNS,
        }
        image.load()
        turn = TURNS.get(_orientation(image))  # Pillow turns a TIFF while it loads, and drops the tag
        rgb, kinds = _to_rgb(image, origin)
        converted = (*(kind for kind, applies in declared.items() if applies), *kinds)
        return Picture(rgb if turn is None else rgb.transpose(turn), converted)


def _to_rgb(image: Image.Image, origin: str) -> tuple[Image.Image, list[str]]:
    """Convert the pixels; return what was converted."""
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in SIXTEEN_BITS_AS_I):
        transparent = isinstance(image.info.get("transparency"), int)
        return _scaled_to_8_bits(image).convert("RGB"), ["16-bit grey", *(["transparent"] if transparent else [])]
    if image.mode not in PLAIN and image.mode not in COLOURS:
        pixels = UNKNOWN_RANGE.get(image.mode, f"pixels of Pillow's mode {image.mode!r}")
        raise BrokenImageError(origin, f"has {pixels}, which are not converted", "save it as 8-bit grey or RGB")
    kinds = [COLOURS[image.mode]] if image.mode in COLOURS else []
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        if np.asarray(with_alpha.getchannel("A")).min() < 255:
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, with_alpha).convert("RGB"), [*kinds, "transparent"]
        return with_alpha.convert("RGB"), kinds
    return image.convert("RGB"), kinds


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale grey levels of 16 (in a TIFF also 12) bits to 8 by their range, rounded; transparent ones become white."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    levels = np.asarray(image).astype(np.int64)
    top = (1 << bits) - 1
    grey = (levels.clip(0, top) * 255 + top // 2) // top
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is 0
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 .. 8; 1 where there is none or the EXIF data are damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's parser raises nearly any exception on damaged EXIF data
        return 1


def _raw_mode(image: Image.Image) -> str:
    """Return the layout of the pixels in the file ("RGB;16B"), or "" if the image was not read from a file."""
    return " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))


def refuse_broken(where: str, broken: Mapping[str, str], remedy: str) -> None:
    """Raise one `DataError` that names the broken images, if there are any.

    Args:
        where: what the images belong to.
        broken: name of each image -> why it cannot be used.
        remedy: what to do.
    """
    if not broken:
        return
    listed = [f"  {name} {reason}" for name, reason in list(broken.items())[:BROKEN_SHOWN]]
    more = [f"  and {len(broken) - BROKEN_SHOWN} more"] if len(broken) > BROKEN_SHOWN else []
    count = "1 image" if len(broken) == 1 else f"{len(broken)} images"
    raise DataError("\n".join([f"{where}: {count} cannot be used; {remedy}:", *listed, *more]))


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
