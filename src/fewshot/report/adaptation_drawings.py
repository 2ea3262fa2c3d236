"""Drawings of a learner's internals. Functions of their data alone.

Shapes: T episodes, K inner steps, L layers (the stages of the backbone, then the head).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from fewshot.report.style import COLORS, LINE_INCHES, WIDTH, figure_with_legend, legend_below, line_style, wrapped

TITLE_WIDTH = 30  # characters of the title of a narrow panel


@dataclass(frozen=True)
class ByLayer:
    """A quantity of each layer over the inner steps, or over the epochs.

    Attributes:
        quantity: name of the axis.
        scale: "log" or "linear".
        learners: (name, values (T, K, L)), with bands over T; networks may differ in L.
        with_head: whether the last layer is the head, and not a convolution.
        over: name of the axis K.
    """

    quantity: str
    scale: str
    learners: tuple[tuple[str, np.ndarray], ...]
    with_head: bool
    over: str = "inner step"

    def layers(self, count: int) -> list[str]:
        """Return the names of so many layers."""
        names = [f"conv {number}" for number in range(1, count + 1)]
        return [*names[:-1], "head"] if self.with_head else names


def draw_by_layer(data: ByLayer) -> Figure:
    """Draw one panel per learner with one line per layer over the inner steps or epochs: median and quartiles."""
    columns = min(len(data.learners), 2)
    rows = -(-len(data.learners) // columns)
    layers = data.layers(max(values.shape[2] for _, values in data.learners))
    figure = figure_with_legend(1.9 * rows + 0.2, layers)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis in axes[len(data.learners) :]:
        axis.set_visible(False)
    for axis, (name, values) in zip(axes, data.learners, strict=False):
        for layer, label in enumerate(data.layers(values.shape[2])):
            _band(axis, range(1, values.shape[1] + 1), values[:, :, layer], label, layers.index(label))
        axis.set_title(wrapped(name, TITLE_WIDTH), fontsize=8)
        axis.set(xlabel=data.over, yscale=data.scale)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axis.tick_params(labelbottom=True)
    if data.scale == "log":
        _label_plainly(axes[0])  # the panels share their vertical axis
    axes[0].set_ylabel(data.quantity)
    legend_below(figure, *sorted(axes, key=lambda axis: -len(axis.lines)))
    return figure


def _label_plainly(axis: Axes) -> None:
    """Label a logarithmic axis with numbers without powers of ten; within one decade, between these too."""
    low, high = axis.get_ylim()
    axis.yaxis.set_major_formatter("{x:g}")
    if high < 10 * low:
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axis.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())


def _band(axis: Axes, x: Sequence[float], values: np.ndarray, label: str, index: int) -> None:
    """Draw the median and quartiles over episodes of values, (T, len(x))."""
    known = ~np.isnan(values).all(axis=0)
    if not known.any():
        return
    low, middle, high = np.nanquantile(values[:, known], (0.25, 0.5, 0.75), axis=0)
    style = line_style(index)
    axis.plot(np.asarray(x)[known], middle, label=label, markersize=4, **style)
    axis.fill_between(np.asarray(x)[known], low, high, color=style["color"], alpha=0.15, linewidth=0)


def draw_accuracy_by_step(learners: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]) -> Figure:
    """Draw (name, accuracies in percent, half widths of their intervals) over the inner steps taken."""
    figure = figure_with_legend(2.4, [name for name, *_ in learners])
    axis = figure.subplots()
    for index, (name, mean, width) in enumerate(learners):
        axis.errorbar(range(len(mean)), mean, yerr=width, ms=4, capsize=2, label=name, **line_style(index))
    axis.set(xlabel="inner steps taken", ylabel="query accuracy (%)")
    axis.set_xticks(range(max(len(mean) for _, mean, _ in learners)))
    legend_below(figure, axis)
    return figure


def draw_similarity(learners: tuple[tuple[str, np.ndarray], ...]) -> Figure:
    """Draw the similarity of features before and after adaptation, (name, values (T, L - 1)), by stage."""
    figure = figure_with_legend(2.4, [name for name, _ in learners])
    axis = figure.subplots()
    for index, (name, values) in enumerate(learners):
        _band(axis, range(1, values.shape[1] + 1), values, name, index)
    axis.set(xlabel="stage of the backbone", ylabel="linear CKA")
    axis.set_xticks(range(1, max(values.shape[1] for _, values in learners) + 1))
    legend_below(figure, axis)
    return figure


def draw_residuals(solvers: tuple[tuple[str, np.ndarray], ...]) -> Figure:
    """Draw the cumulative distribution of the solvers' residuals, (name, values (T,))."""
    figure = figure_with_legend(2.4, [name for name, _ in solvers])
    axis = figure.subplots()
    for index, (name, values) in enumerate(solvers):
        residuals = np.sort(np.maximum(values, 1e-17))
        style: dict[str, Any] = {**line_style(index), "marker": ""}
        axis.step(residuals, np.arange(1, len(residuals) + 1) / len(residuals), where="post", label=name, **style)
    axis.set(xscale="log", xlabel="relative KKT residual", ylabel="fraction of episodes")
    legend_below(figure, axis)
    return figure


@dataclass(frozen=True)
class EmbeddingMap:
    """Embeddings of test images in the plane.

    Attributes:
        title: of the figure.
        points: (N, 2).
        labels: class of each point, (N,).
        classes: (class, name) in the order of the legend.
        explained: shares of the variance along both axes; () if unknown.
    """

    title: str
    points: np.ndarray
    labels: np.ndarray
    classes: tuple[tuple[int, str], ...]
    explained: tuple[float, ...]


def draw_embedding_map(data: EmbeddingMap) -> Figure:
    """Draw one colour and marker per class."""
    names = [name for _, name in data.classes]
    figure = figure_with_legend(WIDTH + LINE_INCHES, names)
    axis = figure.subplots()
    for index, (label, name) in enumerate(data.classes):
        members = data.points[data.labels == label]
        marker = line_style(index)["marker"]
        axis.scatter(
            members[:, 0], members[:, 1], s=14, color=COLORS[index], marker=marker, alpha=0.8, lw=0, label=name
        )
    axis.set_title(wrapped(data.title, 56))
    axis.set(xticks=[], yticks=[])
    if data.explained:
        first, second = (100 * share for share in data.explained)
        axis.set(xlabel=f"first axis, {first:.0f} % of the variance", ylabel=f"second axis, {second:.0f} %")
    legend_below(figure, axis)
    return figure
