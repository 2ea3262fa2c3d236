"""Drawings of the results: accuracy, learning curves, shots, cross-domain; functions of their data."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fewshot.report.style import (
    COLORS,
    LINE_INCHES,
    MARKERS,
    NEUTRAL_COLOR,
    SEQUENTIAL,
    WIDTH,
    figure_with_legend,
    legend_below,
    line_style,
    row_height,
    wrapped,
)

NAME_WIDTH = 56  # characters of a name above its marks
LANE_INCHES = 0.17  # height of one shot of one learner


@dataclass(frozen=True)
class Mark:
    """One number of the accuracy figure, percent, and its counterpart if there is one.

    Attributes:
        shot: number of shots.
        mean: accuracy.
        ci95: half width of its interval.
        other: the number it is compared with.
        other_ci95: half width of its interval, if given.
        comparable: whether the two can be compared.
    """

    shot: int
    mean: float
    ci95: float
    other: float | None = None
    other_ci95: float | None = None
    comparable: bool = True


@dataclass(frozen=True)
class AccuracyPanel:
    """The numbers of one data set and target.

    Attributes:
        title: of the panel.
        chance: accuracy of guessing, percent.
        rows: name of a learner -> its numbers.
    """

    title: str
    chance: float
    rows: tuple[tuple[str, tuple[Mark, ...]], ...]


@dataclass(frozen=True)
class Accuracies:
    """Data of the accuracy figure.

    Attributes:
        panels: one per data set and target.
        shots: all numbers of shots, which determine colours and lanes.
        counterpart: "expected" or "published"; "" if there is none.
    """

    panels: tuple[AccuracyPanel, ...]
    shots: tuple[int, ...]
    counterpart: str


def draw_accuracy(data: Accuracies) -> Figure:
    """Draw each learner's name and below it one lane per shot: the number above, its counterpart just below."""
    lanes = [sum(_lines(name) + len(marks) + 0.5 for name, marks in panel.rows) for panel in data.panels]
    figure = Figure(figsize=(WIDTH, LANE_INCHES * sum(lanes) + 0.75 * len(lanes) + 0.5), layout="constrained")
    axes = figure.subplots(len(lanes), 1, squeeze=False, height_ratios=[count + 1 for count in lanes])[:, 0]
    for axis, panel, height in zip(axes, data.panels, lanes, strict=True):
        _accuracy_panel(axis, panel, data.shots, height)
    figure.legend(handles=_accuracy_legend(data), loc="outside lower center", ncols=min(4, len(data.shots) + 2))
    return figure


def _lines(name: str) -> int:
    return wrapped(name, NAME_WIDTH).count("\n") + 1


def _accuracy_panel(axis: Axes, panel: AccuracyPanel, shots: tuple[int, ...], height: float) -> None:
    top = 0.0
    for name, marks in panel.rows:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        where = axis.get_yaxis_transform()
        axis.text(0, top, wrapped(name, NAME_WIDTH), transform=where, va="top", fontsize=8, bbox=box)
        top += _lines(name)
        for lane, mark in enumerate(marks):
            _accuracy_mark(axis, mark, shots.index(mark.shot), top + lane + 0.35)
        top += len(marks) + 0.5
    axis.axvline(panel.chance, color=NEUTRAL_COLOR, linestyle="--", linewidth=1)
    axis.set(ylim=(height, -0.2), yticks=[], title=panel.title, xlabel="accuracy (%)")
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)


def _accuracy_mark(axis: Axes, mark: Mark, index: int, y: float) -> None:
    color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
    axis.errorbar([mark.mean], [y], xerr=[mark.ci95], fmt=marker, color=color, ms=4, capsize=2)
    if mark.other is not None:
        width = None if mark.other_ci95 is None else [mark.other_ci95]
        style: dict[str, Any] = {"fmt": "D", "ms": 3.5, "mfc": "white", "color": color, "lw": 0.8}
        axis.errorbar([mark.other], [y + 0.4], xerr=width, alpha=1 if mark.comparable else 0.4, **style)


def _accuracy_legend(data: Accuracies) -> list[Line2D]:
    handles = [
        Line2D([], [], color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)], ms=4, label=f"{shot}-shot")
        for i, shot in enumerate(data.shots)
    ]
    if data.counterpart:
        handles.append(
            Line2D([], [], color=NEUTRAL_COLOR, marker="D", ms=3.5, mfc="white", lw=0.8, label=data.counterpart)
        )
    return [*handles, Line2D([], [], color=NEUTRAL_COLOR, linestyle="--", lw=1, label="chance")]


@dataclass(frozen=True)
class Curve:
    """The learning curve of one group: means over its seeds, and the band of the accuracy.

    Attributes:
        label: in the legend.
        epochs: (n,).
        loss: (n,) training loss.
        accuracy: (n,) validation accuracy, percent.
        low: (n,) lower edge of its band.
        high: (n,) upper edge.
    """

    label: str
    epochs: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def draw_learning_curves(panels: tuple[tuple[str, tuple[Curve, ...]], ...]) -> Figure:
    """Draw validation accuracy and training loss against epochs, one pair of axes per (title, curves)."""
    labels = max(([curve.label for curve in curves] for _, curves in panels), key=len)
    figure = figure_with_legend(4.2 * len(panels), labels if len(panels) == 1 else [])
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(panels), 1))) if len(panels) > 1 else [figure]
    for part, (title, curves) in zip(parts, panels, strict=True):
        above, below = part.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for index, curve in enumerate(curves):
            style = {**line_style(index), "markersize": 3.5}
            above.plot(curve.epochs, curve.accuracy, label=curve.label, **style)
            above.fill_between(curve.epochs, curve.low, curve.high, color=style["color"], alpha=0.15, linewidth=0)
            below.plot(curve.epochs, curve.loss, **style)
        above.set(title=title, ylabel="validation accuracy (%)")
        below.set(xlabel="epoch", ylabel="training loss")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(part, above)
    return figure


@dataclass(frozen=True)
class ShotsLine:
    """Accuracy of one learner over the number of shots.

    Attributes:
        name: in the legend.
        shots: in order.
        means: accuracies, percent.
        widths: half widths of their intervals.
    """

    name: str
    shots: tuple[int, ...]
    means: tuple[float, ...]
    widths: tuple[float, ...]


@dataclass(frozen=True)
class ShotsPanel:
    """Accuracy over the number of shots.

    Attributes:
        title: of the panel.
        shots: ticks.
        lines: one per learner.
    """

    title: str
    shots: tuple[int, ...]
    lines: tuple[ShotsLine, ...]


def draw_shots(panels: tuple[ShotsPanel, ...]) -> Figure:
    """Draw accuracy against the number of shots."""
    labels = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    figure = figure_with_legend(2.6 * len(panels), labels)
    for axis, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        for line in panel.lines:
            style = line_style(labels.index(line.name))
            axis.errorbar(line.shots, line.means, yerr=line.widths, ms=4, capsize=2, label=line.name, **style)
        axis.set(title=panel.title, xlabel="shots", ylabel="accuracy (%)", xscale="log")
        axis.set_xticks(panel.shots, [str(shot) for shot in panel.shots], minor=False)
        axis.minorticks_off()
    legend_below(figure, figure.axes[0])
    return figure


@dataclass(frozen=True)
class CrossDomain:
    """Accuracies of trained models on several targets.

    Attributes:
        title: of the figure.
        names: of the rows.
        targets: of the columns.
        accuracy: (rows, columns) percent; nan where nothing was tested.
    """

    title: str
    names: tuple[str, ...]
    targets: tuple[str, ...]
    accuracy: np.ndarray


def draw_cross_domain(data: CrossDomain) -> Figure:
    """Draw a matrix of accuracies."""
    height = 1.6 + row_height(data.names, least=0.36) * len(data.names) + LINE_INCHES
    figure = Figure(figsize=(3.8 + 0.8 * len(data.targets), height), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(data.accuracy, cmap=SEQUENTIAL, aspect="auto")
    middle = (np.nanmin(data.accuracy) + np.nanmax(data.accuracy)) / 2
    for (i, j), value in np.ndenumerate(data.accuracy):
        if not np.isnan(value):
            axis.text(j, i, f"{value:.1f}", ha="center", va="center", color="black" if value > middle else "white")
    axis.set_xticks(range(len(data.targets)), data.targets)
    axis.set_yticks(range(len(data.names)), list(map(wrapped, data.names)))
    axis.grid(visible=False)
    axis.set_title(data.title)
    figure.colorbar(image, ax=axis, label="accuracy (%)")
    return figure
