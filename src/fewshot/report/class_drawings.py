"""Drawings of predictions by class and by confidence. Functions of their data alone."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from fewshot.report.style import (
    LINE_INCHES,
    NEUTRAL_COLOR,
    SEQUENTIAL,
    WIDTH,
    figure_with_legend,
    legend_below,
    line_style,
    wrapped,
)


@dataclass(frozen=True)
class Confusion:
    """How often one class is taken for another.

    Attributes:
        title: of the figure.
        names: of the classes, (C,).
        percent: (C, C) queries of the row's class given the column's class, of those that could be; nan on the
            diagonal and where the two never met.
    """

    title: str
    names: tuple[str, ...]
    percent: np.ndarray


def draw_confusion(data: Confusion) -> Figure:
    """Draw a matrix of the true classes (rows) and the classes given to their queries (columns)."""
    figure = Figure(figsize=(WIDTH, 0.75 * WIDTH + 3 * LINE_INCHES), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(data.percent, cmap=SEQUENTIAL, vmin=0)
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name in data.names]
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.grid(visible=False)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.set_title(wrapped(data.title, 52), fontsize=9)
    figure.colorbar(image, ax=axis, label="queries (%)", shrink=0.7)
    return figure


@dataclass(frozen=True)
class Reliability:
    """Accuracy by predicted confidence of one learner.

    Attributes:
        label: in the legend.
        confidence: (n,) mean of each bin that has predictions, percent.
        accuracy: (n,) of its predictions, percent.
    """

    label: str
    confidence: np.ndarray
    accuracy: np.ndarray


def draw_calibration(panels: tuple[tuple[str, tuple[Reliability, ...]], ...]) -> Figure:
    """Draw one panel per (title, learners): accuracy over confidence, and the diagonal where both are equal."""
    labels = list(dict.fromkeys(line.label for _, lines in panels for line in lines))
    figure = figure_with_legend(3.2 * len(panels), labels)
    axes = list(figure.subplots(len(panels), 1, squeeze=False, sharex=True).flat)
    for axis, (title, lines) in zip(axes, panels, strict=True):
        axis.plot([0, 100], [0, 100], color=NEUTRAL_COLOR, linestyle="--", linewidth=1)
        for line in lines:
            axis.plot(
                line.confidence, line.accuracy, label=line.label, markersize=3.5, **line_style(labels.index(line.label))
            )
        axis.set(title=title, ylabel="accuracy (%)")
    axes[-1].set_xlabel("confidence (%)")
    legend_below(figure, axes[0])
    return figure
