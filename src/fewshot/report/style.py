"""The common style of all figures, and how they are saved: byte-identical for the same numbers."""

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito (2008): distinguishable with all common forms of colour blindness. Black is for published numbers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "v", "D", "P", "X")
PUBLISHED_COLOR = "#000000"
CORRECT_COLOR, WRONG_COLOR = "#0072B2", "#D55E00"
DIVERGING = "PuOr"
INSIGNIFICANT_COLOR, INSIGNIFICANT_TEXT_COLOR = "#dddddd", "#555555"
SEQUENTIAL = "cividis"
LABEL_WIDTH = 34
LINE_INCHES = 0.15  # a line of a tick label

_RC: Any = {
    "svg.hashsalt": "fewshot",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}


@dataclass(frozen=True)
class Picture:
    """A figure with its caption.

    Attributes:
        name: file name without suffix.
        section: heading under which the page shows it.
        caption: what it shows and how to read it; also the alternative text of the page.
        figure: the drawing.
    """

    name: str
    section: str
    caption: str
    figure: Figure

    @property
    def width_inches(self) -> float:
        """Width of the drawing."""
        return float(self.figure.get_figwidth())


@contextmanager
def common_style() -> Iterator[None]:
    """Draw and save with the common style, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def line_style(index: int) -> dict[str, Any]:
    """Return colour, dashes and marker of a line by its index; the first 28 differ."""
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": DASHES[index // len(COLORS) % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def wrapped(label: str) -> str:
    """Return a label of ticks or legends on several lines if it is long."""
    return textwrap.fill(label, LABEL_WIDTH, break_long_words=False)


def row_height(labels: Iterable[str], least: float) -> float:
    """Return the height of a row, inches, that keeps the longest of these wrapped labels clear of its neighbours."""
    lines = max((wrapped(label).count("\n") + 1 for label in labels), default=1)
    return max(least, LINE_INCHES * lines + 0.06)


def legend_at_the_side(axis: Axes) -> None:
    """Put the legend to the right of the axes."""
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def save(picture: Picture, folder: Path) -> None:
    """Write <name>.svg and <name>.png without dates and versions."""
    picture.figure.savefig(folder / f"{picture.name}.svg", metadata={"Date": None, "Creator": None})
    picture.figure.savefig(folder / f"{picture.name}.png", metadata={"Software": None})
