"""Tables of the page whose cells are coloured by their numbers: paired differences, and accuracy by class."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

from fewshot.report.classes import ClassTable
from fewshot.report.compare import Comparison
from fewshot.report.contents import Contents, row_name, tested_on
from fewshot.report.measure import Row
from fewshot.report.style import SEQUENTIAL

MAX_ROWS = 40  # of a table of paired differences; the pairs of a larger family are only in differences.csv
DIVERGING = "PuOr"


def listed_families(contents: Contents) -> list[Comparison]:
    """Return the families of two or more rows whose pairs a page can show."""
    return [family for family in contents.comparisons if 1 < len(family.rows) <= MAX_ROWS]


def difference_table(family: Comparison, labels: dict[str, str], note: Callable[[Row], str]) -> dict[str, Any]:
    """Return the paired differences of a family, row minus column; those that are not significant have no colour.

    Args:
        family: two or more rows.
        labels: group -> label of its method.
        note: row -> what the title adds.
    """
    points, significant = _differences(family)
    limit = _color_limit(family, np.abs(points), significant)
    names = [row_name(labels, row) for row in family.rows]
    first = family.rows[0]
    rows = []
    for i, name in enumerate(names):
        styles = [
            _shade(DIVERGING, (1 + points[i, j] / limit) / 2) if significant[i, j] else "" for j in range(len(names))
        ]
        cells = [{"text": _points(float(points[i, j])), "style": style} for j, style in enumerate(styles)]
        rows.append({"name": name, "cells": [None if i == j else cell for j, cell in enumerate(cells)]})
    return {"title": f"{tested_on(first)}, {first.shot}-shot{note(first)}", "rows": rows}


def _differences(family: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Return the differences in percentage points and whether they are significant, both (rows, rows)."""
    count = len(family.rows)
    points, significant = np.zeros((count, count)), np.zeros((count, count), bool)
    for i, j in family.differences:
        gap = family.difference(i, j)
        points[i, j] = 100 * gap.estimate.mean
        points[j, i] = -points[i, j]
        significant[i, j] = significant[j, i] = gap.is_significant
    return points, significant


def _color_limit(family: Comparison, sizes: np.ndarray, significant: np.ndarray) -> float:
    """Return the largest significant difference between trained rows, else between any rows, percentage points."""
    trained = np.array([row.is_trained for row in family.rows])
    among_trained = significant & trained[:, None] & trained
    return float(sizes.max(where=among_trained if among_trained.any() else significant, initial=0.0)) or 1.0


def _points(value: float) -> str:
    """Return a difference with one decimal: "+1.2"."""
    return f"{value:+.1f}".replace("-0.0", "+0.0")


def class_table(table: ClassTable) -> dict[str, Any]:
    """Return the accuracy by class with example images."""
    pitch = table.examples.height // len(table.names) if table.examples else 0
    rows = [
        {"name": name, "cells": _accuracy_cells(accuracies), "top": place * pitch}
        for place, (name, accuracies) in enumerate(zip(table.names, table.accuracy, strict=True))
    ]
    note = f"; the {len(rows)} hardest of {table.total} classes" if len(rows) < table.total else ""
    return {
        "title": f"{table.title}{note}",
        "columns": [f"{cell.method}, {cell.row.entry.backbone}" for cell in table.rows],
        "rows": rows,
        "examples": table.examples,
        "pitch": pitch,
    }


def _accuracy_cells(accuracies: Sequence[float]) -> list[dict[str, str]]:
    return [{"text": f"{100 * value:.0f}", "style": _shade(SEQUENTIAL, value)} for value in accuracies]


def _shade(colormap: str, value: float) -> str:
    """Return a background colour for a value in 0..1, with white or black text, whichever contrasts more."""
    color = mpl.colormaps[colormap](float(value))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # WCAG 2
    return f"background:{to_hex(color)};color:{'#000' if luminance > 0.18 else '#fff'}"
