"""Figures as files, drawn once: each is kept under a digest of all it depends on, and drawn again only if that changes.

A drawing is a function of plain data in a module that imports nothing of this project but `style`. The digest covers
the data, the text of both modules and of this one, and the versions of the libraries that draw.
"""

import hashlib
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fewshot.digests import digest, path_digest
from fewshot.report import style

SUFFIXES = (".svg", ".png")
LIBRARIES = ("matplotlib", "numpy", "pillow")
DECIMALS = 2  # of coordinates in an SVG, in points


@dataclass(frozen=True)
class Picture:
    """A figure with its caption.

    Attributes:
        name: file name without suffix.
        section: heading under which the page shows it; "" if it is only a file.
        caption: what it shows and how to read it; also the alternative text of the page.
        draw: returns the drawing, given `data`.
        data: plain values, arrays and data classes: all that `draw` reads.
    """

    name: str
    section: str
    caption: str
    draw: Callable[[Any], Figure]
    data: Any

    @property
    def figure(self) -> Figure:
        """The drawing, made anew."""
        return self.draw(self.data)

    @property
    def digest(self) -> str:
        """Key of the drawing: equal for equal data, code and libraries."""
        sources = (sys.modules[self.draw.__module__].__file__, style.__file__, __file__)
        code = [path_digest(Path(str(source))) for source in sources]
        libraries = {name: version(name) for name in LIBRARIES}
        return digest(["figure", self.draw.__qualname__, code, libraries, _plain(self.data)])


def save_pictures(pictures: Sequence[Picture], folder: Path, cache: Path | None) -> dict[str, str]:
    """Write <name>.svg and <name>.png of every figure.

    Args:
        pictures: the figures.
        folder: existing folder of the files.
        cache: folder of figures drawn before, which this call extends; None draws all.

    Returns:
        Name -> digest.
    """
    digests = {picture.name: picture.digest for picture in pictures}
    for picture in pictures:
        kept = [cache / digests[picture.name] / f"figure{suffix}" for suffix in SUFFIXES] if cache else []
        files = [folder / f"{picture.name}{suffix}" for suffix in SUFFIXES]
        if kept and all(file.exists() for file in kept):
            _copy(kept, files)
        else:
            _draw(picture, files)
            _copy(files, kept)
    return digests


def _draw(picture: Picture, files: Sequence[Path]) -> None:
    """Write both files, laid out once, without dates and versions."""
    svg, png = files
    with style.common_style():
        figure = picture.figure
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
        figure.savefig(png, metadata={"Software": None})
    svg.write_text(minified(svg.read_text(encoding="utf-8")), encoding="utf-8")


def _copy(files: Sequence[Path], places: Sequence[Path]) -> None:
    """Copy files, each complete or not at all; do nothing without places."""
    for file, place in zip(files, places, strict=False):
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_name(f".{place.name}.partial")
        shutil.copyfile(file, scratch)
        scratch.replace(place)


def minified(svg: str) -> str:
    """Return an SVG of matplotlib without comments, metadata and line breaks, with rounded coordinates.

    Text stays text, in a typeface that every browser has or replaces by one no wider.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"(?<![\w#.])-?\d+\.\d{3,}", lambda number: _rounded(number[0]), body)
    body = body.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    body = re.sub(r' id="(?:figure|axes|patch|text|line2d|xtick|ytick|matplotlib\.axis|legend)_\d+"', "", body)
    return re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", body)).strip() + "\n"


def _rounded(number: str) -> str:
    return f"{float(number):.{DECIMALS}f}".rstrip("0").rstrip(".") or "0"


def _plain(value: Any) -> Any:
    """Return the data of a figure as JSON values; an array stands for its type, shape and content."""
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return ["array", str(value.dtype), list(value.shape), content]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, *([field.name, _plain(getattr(value, field.name))] for field in fields(value))]
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
