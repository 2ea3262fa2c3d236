"""The common style of all figures. They fit a phone, so they are narrow, with legends below.

Every drawing depends on this module; see `pictures.py`.
"""

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

# Okabe & Ito (2008): distinguishable with all common forms of colour blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "v", "D", "P", "X")
NEUTRAL_COLOR = "#555555"
SEQUENTIAL = "cividis"
WIDTH = 4.6  # inches
LABEL_WIDTH, LEGEND_WIDTH = 34, 62  # characters
LINE_INCHES = 0.15  # a line of a tick label or legend

_RC: Any = {
    "svg.hashsalt": "fewshot",
    "svg.fonttype": "none",
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


def wrapped(label: str, width: int = LABEL_WIDTH) -> str:
    """Return a label on several lines if it is long, broken at spaces, else after hyphens, else anywhere."""
    return textwrap.fill(label, width)


def row_height(labels: Iterable[str], least: float) -> float:
    """Return the height of a row, inches, that keeps the longest of these wrapped labels clear of its neighbours."""
    lines = max((wrapped(label).count("\n") + 1 for label in labels), default=1)
    return max(least, LINE_INCHES * lines + 0.06)


def figure_with_legend(height: float, labels: Sequence[str]) -> Figure:
    """Return an empty figure of the common width with room for a legend below, which `legend_below` fills.

    Args:
        height: of the panels, inches.
        labels: of the legend.
    """
    shown = [legend_label(label) for label in labels]
    lines = max((label.count("\n") + 1 for label in shown), default=0)
    rows = math.ceil(len(shown) / legend_columns(shown))
    return Figure(figsize=(WIDTH, height + LINE_INCHES * rows * lines + 0.15), layout="constrained")


def legend_below(figure: Figure | SubFigure, *axes: Axes) -> None:
    """Put the legend of some axes, each label once, below all panels."""
    found: dict[str, Artist] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(legend_label(label), handle)
    if found:
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=legend_columns(list(found)))


def legend_label(label: str) -> str:
    """Return a label that fits into a legend of one column."""
    return wrapped(label, LEGEND_WIDTH)


def legend_columns(labels: Sequence[str]) -> int:
    """Return how many columns of these labels fit into the common width."""
    longest = max((len(line) for label in labels for line in label.split("\n")), default=1)
    return max(1, min(len(labels), 78 // (longest + 8)))
