"""Numbers and tables as text."""

import math
from collections.abc import Iterable, Sequence

from fewshot.report.stats import Estimate


def decimal(value: float | None, digits: int = 4) -> str:
    """Return a fixed-point number; "" for None and nan."""
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed_points(difference: Estimate) -> str:
    """Return a difference in percentage points with its 95 % interval, "-1.20 ± 0.40"."""
    return f"{100 * difference.mean:+.2f} ± {100 * difference.ci95:.2f}"


def pipes(rows: Iterable[Sequence[str]]) -> str:
    """Return the rows of a Markdown table; the second is the rule below the header."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal: the header, a rule, the rows."""
    widths = [max(len(text) for text in column) for column in zip(*table, strict=True)]
    header, *rows = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    return "\n".join([header, "-" * (sum(widths) + 2 * len(widths) - 2), *rows])
