"""Figures of the results: accuracy with published numbers, learning curves, differences, shots, cross-domain."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fewshot.report.compare import Comparison, Difference
from fewshot.report.contents import Block, Cell, Contents, counterpart, row_name
from fewshot.report.curves import read_history
from fewshot.report.style import (
    COLORS,
    DIVERGING,
    INSIGNIFICANT_COLOR,
    INSIGNIFICANT_TEXT_COLOR,
    MARKERS,
    PUBLISHED_COLOR,
    SEQUENTIAL,
    Picture,
    legend_at_the_side,
    line_style,
    row_height,
    wrapped,
)

MAX_MATRIX = 40

History = list[dict[str, str]]  # rows of history.csv


def result_pictures(contents: Contents) -> Iterator[Picture]:
    """Yield every figure that the numbers allow."""
    if contents.cells:
        yield accuracy(contents.blocks)
    curves = learning_curves(contents)
    if curves is not None:
        yield curves
    if any(len(block.shots) > 2 for block in contents.blocks):
        yield shots_curve(contents.blocks)
    yield from difference_matrices(contents)
    yield from cross_domain(contents)


def accuracy(blocks: Sequence[Block]) -> Picture:
    """Draw every number with its interval, and the published number below it."""
    heights = [len(block.lines) for block in blocks]
    row = row_height([line.name for block in blocks for line in block.lines], least=0.42)
    figure = Figure(figsize=(7.5, 1.0 * len(blocks) + row * sum(heights) + 0.4), layout="constrained")
    axes = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=[height + 1 for height in heights])[:, 0]
    shots = sorted({shot for block in blocks for shot in block.shots})
    for axis, block in zip(axes, blocks, strict=True):
        _accuracy_panel(axis, block, shots)
    axes[-1].set_xlabel("accuracy (%)")
    handles = [_legend_handle(axes[0], shot, shots) for shot in shots]
    if any(block.has_published for block in blocks):
        style = {"fmt": "D", "color": PUBLISHED_COLOR, "mfc": "white", "ms": 5}
        label = counterpart(cell for block in blocks for cell in block.cells)
        handles.append(axes[0].errorbar([], [], xerr=[], label=label, **style))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return Picture(
        "accuracy",
        "Accuracy",
        "Test accuracy of each learner with its 95 % interval. White diamonds: the number it is compared with, and "
        "its interval if given; grey diamonds: a number that is not comparable (see the protocol card).",
        figure,
    )


def _legend_handle(axis: Axes, shot: int, shots: Sequence[int]) -> ErrorbarContainer:
    index = shots.index(shot)
    return axis.errorbar([], [], xerr=[], fmt=MARKERS[index % 7], color=COLORS[index % 7], label=f"{shot}-shot")


def _accuracy_panel(axis: Axes, block: Block, shots: Sequence[int]) -> None:
    for y, line in enumerate(block.lines):
        for shot, cell in line.cells.items():
            index = shots.index(shot)
            style: dict[str, Any] = {"fmt": MARKERS[index % 7], "color": COLORS[index % 7]}
            axis.errorbar([cell.accuracy_pct], [y], xerr=[cell.ci95_pct], ms=4, capsize=3, **style)
            _published_mark(axis, cell, y + 0.28)
    axis.set_yticks(range(len(block.lines)), [wrapped(line.name) for line in block.lines])
    axis.set_ylim(len(block.lines) - 0.4, -0.6)
    axis.set_title(block.title)
    axis.grid(axis="y", visible=False)


def _published_mark(axis: Axes, cell: Cell, y: float) -> None:
    number = cell.verdict.number
    if number is None:
        return
    face = "#bbbbbb" if cell.verdict.reasons else "white"
    width = [number.ci95_pct] if number.ci95_pct is not None else None
    axis.errorbar([number.accuracy_pct], [y], xerr=width, fmt="D", ms=4, mfc=face, color=PUBLISHED_COLOR, lw=0.8)


def learning_curves(contents: Contents) -> Picture | None:
    """Draw validation accuracy against epochs, one panel per data set and backbone; None if nothing was trained."""
    panels: dict[str, dict[str, list[History]]] = defaultdict(lambda: defaultdict(list))
    for entry in contents.trainings:
        if history := read_history(entry):
            panels[f"{entry.dataset}, {entry.backbone}"][entry.group].append(history)
    if not panels:
        return None
    figure = Figure(figsize=(7.5, 2.8 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (title, groups) in zip(axes, panels.items(), strict=True):
        for index, (group, histories) in enumerate(groups.items()):
            _curve(axis, histories, wrapped(contents.labels[group]), index)
        axis.set(title=title, ylabel="validation accuracy (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_at_the_side(axis)
    axes[-1].set_xlabel("epoch")
    return Picture(
        "learning_curves",
        "Learning curves",
        "Accuracy on validation episodes after each epoch: mean over the training seeds. The band is the 95 % interval "
        "over episodes for one seed, and the range over seeds for several.",
        figure,
    )


def _curve(axis: Axes, histories: Sequence[History], label: str, index: int) -> None:
    length = min(map(len, histories))
    epochs = [float(record["epoch"]) for record in histories[0][:length]]
    values = 100 * np.array([[_number(record, "validation_accuracy") for record in h[:length]] for h in histories])
    mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    if len(histories) == 1:
        width = 100 * np.array([_number(record, "validation_ci95") for record in histories[0]])
        low, high = mean - width, mean + width
    style = line_style(index)
    axis.plot(epochs, mean, label=label, markersize=3.5, **style)
    axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _number(record: dict[str, str], column: str) -> float:
    text = record.get(column, "")
    return float(text) if text else float("nan")


def shots_curve(blocks: Sequence[Block]) -> Picture:
    """Draw accuracy against the number of shots."""
    wide = [block for block in blocks if len(block.shots) > 2]
    figure = Figure(figsize=(7.5, 3.0 * len(wide)), layout="constrained")
    for axis, block in zip(figure.subplots(len(wide), 1, squeeze=False)[:, 0], wide, strict=True):
        for index, line in enumerate(block.lines):
            shots = sorted(line.cells)
            mean = [line.cells[shot].accuracy_pct for shot in shots]
            width = [line.cells[shot].ci95_pct for shot in shots]
            axis.errorbar(shots, mean, yerr=width, ms=4, capsize=2, label=wrapped(line.name), **line_style(index))
        axis.set(title=block.title, xlabel="shots", ylabel="accuracy (%)", xscale="log")
        axis.set_xticks(block.shots, [str(shot) for shot in block.shots], minor=False)
        axis.minorticks_off()
        legend_at_the_side(axis)
    return Picture(
        "shots",
        "Shots",
        "Accuracy over support images per class, with 95 % intervals. More shots add support images to the same "
        "episodes and keep the queries, so the curves are paired.",
        figure,
    )


def difference_matrices(contents: Contents) -> Iterator[Picture]:
    """Yield one matrix per family of two or more rows; names that would repeat are numbered."""
    drawn: Counter[str] = Counter()
    for comparison in contents.comparisons:
        if 1 < len(comparison.rows) <= MAX_MATRIX:
            picture = difference_matrix(comparison, contents.labels)
            drawn[picture.name] += 1
            number = drawn[picture.name]
            yield picture if number == 1 else replace(picture, name=f"{picture.name}-{number}")


def difference_matrix(comparison: Comparison, labels: dict[str, str]) -> Picture:
    """Draw the paired differences of one family as a matrix: row minus column."""
    count = len(comparison.rows)
    found = {(i, j): comparison.difference(i, j) for i in range(count) for j in range(count) if i != j}
    shown = np.full((count, count), np.nan)
    for place, gap in found.items():
        if gap.is_significant:
            shown[place] = 100 * gap.estimate.mean
    ticks = [wrapped(f"{number}. {row_name(labels, row)}") for number, row in enumerate(comparison.rows, start=1)]
    entry, shot = comparison.rows[0].entry, comparison.rows[0].shot
    side = 1.6 + 0.62 * count
    figure = Figure(figsize=(side + 1.6, side), layout="constrained")
    axis = figure.subplots()
    limit = _color_limit(comparison)
    axis.set_facecolor(INSIGNIFICANT_COLOR)
    image = axis.imshow(shown, cmap=DIVERGING, vmin=-limit, vmax=limit)
    for (i, j), gap in found.items():
        _difference_text(axis, gap, limit, i, j)
    axis.set_xticks(range(count), [str(number) for number in range(1, count + 1)])
    axis.set_yticks(range(count), ticks)
    axis.grid(visible=False)
    axis.set_title(f"{entry.target}, {shot}-shot")
    figure.colorbar(image, ax=axis, label="row - column (% points)", shrink=0.8)
    name = f"differences-{entry.dataset}-{entry.target}-{comparison.rows[0].protocol['n_way']}way-{shot}shot"
    return Picture(
        name,
        "Paired differences",
        f"{entry.dataset} -> {entry.target}, {shot}-shot: accuracy of the row minus that of the column on the same "
        "episodes, percentage points. Coloured: significant at 5 % after Holm's correction over all pairs; grey: not "
        "significant. Untrained learners do not set the range of the colours.",
        figure,
    )


def _color_limit(comparison: Comparison) -> float:
    """Return the largest significant difference between trained rows, else between any rows, percentage points."""
    significant = {pair for pair in comparison.differences if comparison.difference(*pair).is_significant}
    trained = {pair for pair in significant if all(comparison.rows[index].is_trained for index in pair)}
    return max([100 * abs(comparison.differences[pair].mean) for pair in trained or significant], default=1.0)


def _difference_text(axis: Axes, gap: Difference, limit: float, i: int, j: int) -> None:
    value = 100 * gap.estimate.mean
    color = ("white" if abs(value) > 0.6 * limit else "black") if gap.is_significant else INSIGNIFICANT_TEXT_COLOR
    text = f"{value:+.1f}".replace("-0.0", "+0.0")
    axis.text(j, i, text, ha="center", va="center", color=color, fontsize=8)


def cross_domain(contents: Contents) -> Iterator[Picture]:
    """Yield one matrix per number of shots, for the models tested on several targets, if any."""
    targets_of: dict[str, set[str]] = defaultdict(set)
    for cell in contents.cells:
        targets_of[cell.row.entry.group].add(cell.row.entry.target)
    cells = [cell for cell in contents.cells if len(targets_of[cell.row.entry.group]) > 1]
    targets = list(dict.fromkeys(cell.row.entry.target for cell in cells))
    for shot in sorted({cell.row.shot for cell in cells}):
        yield _cross_domain_matrix([cell for cell in cells if cell.row.shot == shot], targets, shot)


def _cross_domain_matrix(cells: Sequence[Cell], targets: Sequence[str], shot: int) -> Picture:
    rows: dict[str, dict[str, Cell]] = defaultdict(dict)
    for cell in cells:
        rows[f"{cell.row.entry.dataset}: {cell.method}, {cell.row.entry.backbone}"][cell.row.entry.target] = cell
    values = np.array([[row[t].accuracy_pct if t in row else np.nan for t in targets] for row in rows.values()])
    figure = Figure(
        figsize=(3.8 + 0.8 * len(targets), 1.6 + row_height(rows, least=0.36) * len(rows)), layout="constrained"
    )
    axis = figure.subplots()
    image = axis.imshow(values, cmap=SEQUENTIAL, aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            axis.text(j, i, f"{value:.1f}", ha="center", va="center", color="black" if value > middle else "white")
    axis.set_xticks(range(len(targets)), targets)
    axis.set_yticks(range(len(rows)), list(map(wrapped, rows)))
    axis.grid(visible=False)
    axis.set_title(f"{shot}-shot")
    figure.colorbar(image, ax=axis, label="accuracy (%)")
    return Picture(
        f"cross_domain-{shot}shot",
        "Cross-domain",
        f"{shot}-shot accuracy in percent of each trained model (row) on the test classes of each data set (column).",
        figure,
    )
