"""Figures of suites that vary one number: accuracy over the training shot, the QP's iterations, the filters.

They are MetaOptNet's figures 2 and 3 and its claim about the dimension of the embedding (Lee et al., CVPR 2019). A line
connects rows that agree in everything but that number; it needs three or more of them.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewshot.report import stats
from fewshot.report.contents import Cell, Contents, block_title
from fewshot.report.matching import solver_iterations
from fewshot.report.measure import Row
from fewshot.report.pictures import Picture
from fewshot.report.stats import Estimate
from fewshot.report.sweep_drawings import SweepLine, SweepPanel, draw_sweep

FEWEST = 3
SECTION = "Accuracy over one setting"

Settings = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """A number that a suite may vary.

    Attributes:
        name: file name of the figure.
        label: of the horizontal axis.
        take: removes the number from the settings of a row and returns it; None stands for no limit.
        unlimited: what None is called.
        slope: unit of the slope that the caption gives; "" for none.
    """

    name: str
    label: str
    take: Callable[[Settings, Row], int | None]
    unlimited: str = ""
    slope: str = ""


def _training_shot(settings: Settings, row: Row) -> int | None:
    if row.recipe.get("batch_size") is not None:
        return None
    return int(settings["train"]["recipe"].pop("n_shot"))


def _iterations(settings: Settings, row: Row) -> int | None:
    for name in ("solver", "max_iterations"):
        settings["tested"].pop(name, None)
    return solver_iterations(row)


def _filters(settings: Settings, row: Row) -> int | None:
    filters = settings["train"]["backbone"].pop("filters", None)
    return None if filters is None else int(filters)


AXES = (
    Axis("training_shot", "support images per class in training", _training_shot, slope="shot"),
    Axis("qp_iterations", "iterations of the QP solver in the test", _iterations, unlimited="optimum"),
    Axis("filters", "filters of the network", _filters),
)


def sweep_pictures(contents: Contents) -> Iterator[Picture]:
    """Yield a figure for every number that a suite varies."""
    for axis in AXES:
        if lines := sweep_lines(contents.cells, axis):
            yield sweep_picture(lines, axis)


Line = list[tuple[int | None, Cell]]


def sweep_lines(cells: Sequence[Cell], axis: Axis) -> list[Line]:
    """Return the cells of each line with their values, in the order of the values; no limit comes last."""
    found: dict[str, dict[int | None, Cell]] = defaultdict(dict)
    for cell in cells:
        settings = _settings(cell.row)
        value = axis.take(settings, cell.row)
        if value is not None or axis.unlimited:
            where = [cell.row.entry.target, cell.row.shot, cell.row.selection]
            found[json.dumps([settings, where], sort_keys=True)][value] = cell
    lines = [sorted(line.items(), key=lambda item: (item[0] is None, item[0] or 0)) for line in found.values()]
    return [line for line in lines if len(line) >= FEWEST]


def _settings(row: Row) -> Settings:
    """Return a copy of all settings of a row but the seed."""
    train = {name: value for name, value in row.protocol["train"].items() if name != "seed"}
    copied: Settings = json.loads(json.dumps({"train": train, "tested": row.tested_learner}))
    return copied


def sweep_picture(lines: Sequence[Line], axis: Axis) -> Picture:
    """Return the figure of some lines, a panel per data set and target."""
    panels: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        panels[block_title(line[0][1])].append(line)
    ticks = sorted({value for line in lines for value, _ in line}, key=lambda value: (value is None, value or 0))
    drawn = tuple(SweepPanel(title, tuple(_drawn(line, ticks) for line in part)) for title, part in panels.items())
    labels = tuple(axis.unlimited if value is None else str(value) for value in ticks)
    slopes = f" {_slopes(lines, axis)}" if axis.slope else ""
    return Picture(
        axis.name,
        SECTION,
        f"Accuracy over {axis.label}, with 95 % intervals; rows of one line differ in nothing else.{slopes}",
        draw_sweep,
        (axis.label, labels, drawn),
    )


def _drawn(line: Line, ticks: Sequence[int | None]) -> SweepLine:
    places = tuple(ticks.index(value) for value, _ in line)
    cells = [cell for _, cell in line]
    return SweepLine(
        _name(cells[0]),
        places,
        tuple(cell.accuracy_pct for cell in cells),
        tuple(cell.ci95_pct for cell in cells),
    )


def _name(cell: Cell) -> str:
    return f"{cell.row.entry.learner}, {cell.row.shot}-shot"


def _slopes(lines: Sequence[Line], axis: Axis) -> str:
    """Return a sentence with the slope of each line and its interval."""
    texts = []
    for line in lines:
        slope = slope_of([(value, cell.row) for value, cell in line if value is not None])
        texts.append(f"{_name(line[0][1])} {100 * slope.mean:+.2f} ± {100 * slope.ci95:.2f}")
    return f"Slope of the least-squares line, percentage points per {axis.slope}: {'; '.join(texts)}."


def slope_of(points: Sequence[tuple[int, Row]]) -> Estimate:
    """Return the slope of the least-squares line through accuracies over a number, and its error.

    The slope is a weighted sum of the accuracies, so each test episode, on which all rows were tested, has a slope of
    its own; each training has its own random start, so their errors add.
    """
    values = np.array([value for value, _ in points], float)
    centred = values - values.mean()
    weights = centred / (centred @ centred)
    accuracies = [weight * row.accuracies for weight, (_, row) in zip(weights, points, strict=True)]
    episodes = stats.sample_estimate(sum(part.mean(axis=0) for part in accuracies))
    parts = tuple(part for scaled in accuracies for part in stats.seed_part(scaled))
    return Estimate(episodes.mean, episodes.parts + parts)
