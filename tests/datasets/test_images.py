"""Every row of the table of pictures in docs/data.md, with its pixels, decoded from a file and from a PIL image."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageOps

from fewshot.datasets.images import BrokenImageError, convert_image, decode_image, refuse_broken
from fewshot.errors import DataError

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
WHITE, RED, BLUE = [255, 255, 255], [255, 0, 0], [0, 0, 255]


class Case(NamedTuple):
    """A picture file of one row, and the pixels that it becomes; or the reason why it is refused."""

    content: bytes
    pixels: list[list[int]] | None
    reason: str = ""


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def row(levels: list[Any], kind: type, mode: str | None = None) -> Image.Image:
    """Return a picture of one row."""
    image = Image.fromarray(np.array([levels], kind))
    assert mode in (None, image.mode)
    return image


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def deep_png(levels: list[int], width: int = 1, height: int = 1) -> bytes:
    """Return a PNG with 16 bits per channel, which Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(f">{len(levels)}H", *levels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(bits: int, photometric: int, pixels: bytes, width: int) -> bytes:
    """Return an uncompressed grey TIFF of one row."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (277, 1), (278, 1), (279, len(pixels))]
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted([*tags, (273, start)]))
    return b"II*\0" + struct.pack("<IH", 8, len(tags) + 1) + entries + struct.pack("<I", 0) + pixels


def animation(first: str, *others: str) -> bytes:
    frames = [Image.new("RGB", (2, 1), colour) for colour in (first, *others)]
    return encode(frames[0], "PNG", save_all=True, append_images=frames[1:])


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(row([RED, BLUE], np.uint8), "PNG", exif=exif)


def palette() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 200, 100, 50])
    image.putpixel((1, 0), 1)
    return image


GREY_16 = row([0, 257 * 10 + 128, 257 * 10 + 129, 65535], np.uint16, "I;16")
SCALED_16 = [[0] * 3, [10] * 3, [11] * 3, WHITE]
HIDDEN = Image.fromarray(np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [10, 20, 30, 128]]], np.uint8), "RGBA")

CASES: dict[str, Case] = {
    "8-bit RGB": Case(encode(row([[1, 2, 3], BLUE], np.uint8), "PNG"), [[1, 2, 3], BLUE]),
    "8-bit grey": Case(encode(row([7, 200], np.uint8), "PNG"), [[7] * 3, [200] * 3]),
    "black and white (1 bit)": Case(encode(row([0, 255], np.uint8).convert("1"), "PNG"), [[0] * 3, WHITE]),
    "16-bit grey": Case(encode(GREY_16, "PNG"), SCALED_16),
    "12-bit grey TIFF": Case(tiff(12, 1, bytes([0x00, 0x0F, 0xFF]), 2), [[0] * 3, WHITE]),
    "16-bit TIFF in which 0 is white": Case(
        tiff(16, 0, struct.pack("<3H", 0, 65535, 257 * 10), 3), [WHITE, [0] * 3, [245] * 3]
    ),
    "16-bit colour": Case(deep_png([0x1234, 0x00FF, 0xFF00, 0, 0, 65535], width=2), [[0x12, 0, 255], BLUE]),
    "palette": Case(encode(palette(), "PNG"), [[1, 2, 3], [200, 100, 50]]),
    "CMYK": Case(encode(Image.new("CMYK", (1, 1), (0, 255, 255, 51)), "TIFF"), [[204, 0, 0]]),
    "YCbCr TIFF": Case(encode(Image.new("YCbCr", (1, 1), (50, 128, 128)), "TIFF"), [[50] * 3]),
    "transparent pixels": Case(encode(HIDDEN, "PNG"), [WHITE, [10, 20, 30], [132, 137, 142]]),
    "EXIF orientation": Case(turned(3), [BLUE, RED]),
    "animation or several pages": Case(animation("red", "blue"), [RED, RED]),
    "32-bit integer levels": Case(encode(row([0, 5], np.int32), "TIFF"), None, "32-bit integer pixels"),
    "floating-point levels": Case(encode(row([0, 0.5], np.float32), "TIFF"), None, "floating-point pixels"),
    "any other kind (LAB)": Case(encode(Image.new("LAB", (1, 1)), "TIFF"), None, "mode 'LAB'"),
    "damaged or of another format": Case(b"<html>", None, "not a readable image"),
    "more than 40 million pixels": Case(deep_png([], 8000, 5001), None, "8000 x 5001 pixels"),
}  # fmt: skip


def table() -> dict[str, tuple[str, str]]:
    """Return picture -> (what it becomes, how it is counted) of the table in the document."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Pictures\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {picture: (becomes, counted.strip("`")) for picture, becomes, counted in cells}


def test_every_row_of_the_table_has_a_case():
    assert list(CASES) == list(table())


@pytest.mark.parametrize("picture", [name for name, case in CASES.items() if case.pixels is not None])
def test_file_becomes_what_its_row_says(picture):
    case = CASES[picture]

    decoded = decode_image(case.content, "the file")

    assert np.asarray(decoded.image)[0].tolist() == case.pixels
    assert decoded.image.mode == "RGB"
    assert decoded.converted == tuple(filter(None, [table()[picture][1]]))


@pytest.mark.parametrize("picture", [name for name, case in CASES.items() if case.pixels is None])
def test_file_is_refused_as_its_row_says(picture):
    with pytest.raises(BrokenImageError, match=f"^the file .*{CASES[picture].reason}"):
        decode_image(CASES[picture].content, "the file")
    assert table()[picture][0].startswith("refused")


@pytest.mark.parametrize("picture", [name for name, case in CASES.items() if case.pixels is not None])
def test_opened_image_becomes_the_same_as_its_file(picture):
    opened = convert_image(Image.open(io.BytesIO(CASES[picture].content)), "the image")
    decoded = decode_image(CASES[picture].content, "the file")
    assert np.array_equal(np.asarray(opened.image), np.asarray(decoded.image))
    assert opened.converted == decoded.converted


@pytest.mark.parametrize("file_format", ["TIFF", "PPM"])
def test_16_bit_grey_of_other_formats_is_scaled_alike(file_format):
    assert np.asarray(decode_image(encode(GREY_16, file_format), "x").image)[0].tolist() == SCALED_16


TRANSPARENT: dict[str, tuple[Callable[[], bytes], list[list[int]]]] = {
    "grey and alpha": (lambda: encode(HIDDEN.convert("LA"), "PNG"), [WHITE, [18] * 3, [136] * 3]),
    "WebP": (
        lambda: encode(HIDDEN, "WEBP", lossless=True, exact=True), [WHITE, [10, 20, 30], [132, 137, 142]]
    ),
    "a colour of a palette": (lambda: encode(palette(), "GIF", transparency=0), [WHITE, [200, 100, 50]]),
    "a grey level": (lambda: encode(row([3, 7], np.uint8), "PNG", transparency=7), [[3] * 3, WHITE]),
    "a 16-bit grey level": (lambda: encode(GREY_16, "PNG", transparency=0), [WHITE, *SCALED_16[1:]]),
    "a colour": (lambda: encode(row([RED, BLUE], np.uint8), "PNG", transparency=(255, 0, 0)), [WHITE, BLUE]),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_parts_become_white_however_they_are_declared(kind):
    make, pixels = TRANSPARENT[kind]
    decoded = decode_image(make(), "x")
    assert np.asarray(decoded.image)[0].tolist() == pixels
    assert "transparent" in decoded.converted


def test_opaque_alpha_changes_nothing():
    decoded = decode_image(encode(Image.new("RGBA", (2, 1), (1, 2, 3, 255)), "PNG"), "x")
    assert np.asarray(decoded.image)[0].tolist() == [[1, 2, 3]] * 2
    assert decoded.converted == ()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_every_orientation_is_turned_as_pillow_does(file_format, orientation):
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(image, file_format, exif=exif, **options)

    decoded = decode_image(content, "x")

    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert np.array_equal(np.asarray(decoded.image), np.asarray(expected))
    assert decoded.converted == (("turned by EXIF orientation",) if orientation > 1 else ())


def test_damaged_exif_data_do_not_refuse_a_picture():
    content = encode(row([RED], np.uint8), "PNG", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    assert np.asarray(decode_image(content, "x").image)[0].tolist() == [RED]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF"])
def test_first_frame_is_taken_in_every_format(file_format):
    frames = [Image.new("RGB", (2, 1), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    decoded = decode_image(encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options), "x")
    assert np.asarray(decoded.image)[0].tolist() == [RED, RED]
    assert "first of several frames" in decoded.converted


def test_image_without_pixels_is_refused():
    with pytest.raises(BrokenImageError, match="the image has no pixels"):
        convert_image(Image.new("RGB", (0, 3)), "the image")


def test_broken_images_are_listed_up_to_twenty_with_their_number():
    broken = {f"'{number}.png'": "is not a readable image" for number in range(23)}
    with pytest.raises(DataError) as caught:
        refuse_broken("my folder", broken, "replace them")
    lines = str(caught.value).splitlines()
    assert lines[0] == "my folder: 23 images cannot be used; replace them:"
    assert lines[1] == "  '0.png' is not a readable image"
    assert lines[20:] == ["  '19.png' is not a readable image", "  and 3 more"]
