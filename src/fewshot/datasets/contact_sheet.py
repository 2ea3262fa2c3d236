"""An overview image of a prepared data set: for each split, one row per class with a dozen of its images."""

import importlib.util
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fewshot.datasets.store import SplitStore, Store

CLASSES_SHOWN = 12
IMAGES_SHOWN = 12
CELL = 64
NAME_WIDTH = 150
TITLE_HEIGHT = 26
FONT_SIZE = 13


def draw_contact_sheet(store: Store, path: Path) -> None:
    """Draw evenly spaced classes and images of every split into a PNG file; byte-identical for the same store."""
    blocks = [_draw_split(split) for split in store.splits.values()]
    sheet = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    sheet.save(partial, format="PNG")
    os.replace(partial, path)


def _draw_split(split: SplitStore) -> Image.Image:
    """Draw a title and one row per class."""
    classes = _spread(len(split.class_names), CLASSES_SHOWN)
    block = Image.new("RGB", (NAME_WIDTH + IMAGES_SHOWN * CELL, TITLE_HEIGHT + len(classes) * CELL), "white")
    draw, font = ImageDraw.Draw(block), _label_font()
    title = f"{split.name}: {len(split.class_names)} classes, {len(split):,} images; {len(classes)} classes shown"
    draw.text((6, TITLE_HEIGHT / 2), title, fill="black", font=font, anchor="lm")
    for row, label in enumerate(classes):
        top = TITLE_HEIGHT + row * CELL
        draw.text((6, top + CELL / 2), _shorten(split.class_names[label], font), fill="black", font=font, anchor="lm")
        start, size = int(split.class_starts[label]), int(split.class_sizes[label])
        for column, number in enumerate(_spread(size, IMAGES_SHOWN)):
            image = Image.fromarray(np.ascontiguousarray(split.images[start + number]))
            block.paste(_fit(image), (NAME_WIDTH + column * CELL, top))
    return block


def _fit(image: Image.Image) -> Image.Image:
    enlarge = image.width < CELL
    return image.resize((CELL - 2, CELL - 2), Image.Resampling.NEAREST if enlarge else Image.Resampling.BOX)


def _spread(count: int, shown: int) -> list[int]:
    """Return at most `shown` evenly spaced numbers from 0 .. count - 1."""
    return [i * count // min(count, shown) for i in range(min(count, shown))]


def _label_font() -> ImageFont.FreeTypeFont:
    """Return a font with the characters of every class name: DejaVu Sans, which is part of matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    return ImageFont.truetype(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)


def _shorten(name: str, font: ImageFont.FreeTypeFont) -> str:
    """Return a name on one line that fits in its column; line breaks and the like are shown as escapes."""
    name = name if name.isprintable() else repr(name)
    name = name if len(name) <= NAME_WIDTH else name[:NAME_WIDTH] + "…"  # no letter is narrower than a pixel
    while font.getlength(name) > NAME_WIDTH - 12:
        name = name[:-2] + "…"
    return name
