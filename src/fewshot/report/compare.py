"""Pairwise differences between rows tested on the same frozen episodes, corrected for multiple comparisons."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fewshot.report import stats
from fewshot.report.measure import Row
from fewshot.report.stats import Estimate

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """All pairs of a family of rows.

    Attributes:
        rows: n rows with the same data set, target, ways, shots and list of episodes.
        differences: (i, j), i < j -> row i - row j.
        p_values: (n, n), corrected by Holm's method over all pairs of the family; 1 on the diagonal.
    """

    rows: tuple[Row, ...]
    differences: dict[tuple[int, int], Estimate]
    p_values: np.ndarray

    def difference(self, i: int, j: int) -> float:
        """Return the mean of row i - row j, 0..1."""
        if i == j:
            return 0.0
        return self.differences[i, j].mean if i < j else -self.differences[j, i].mean

    @property
    def marks(self) -> tuple[str, ...]:
        """Mark of each row: "best" for the highest mean, "tied" if not significantly worse, else ""."""
        if len(self.rows) < 2:
            return ("",) * len(self.rows)
        best = int(np.argmax([row.estimate.mean for row in self.rows]))
        ties = ["tied" if p >= SIGNIFICANT else "" for p in self.p_values[best]]
        return (*ties[:best], "best", *ties[best + 1 :])


def compare_rows(rows: Iterable[Row]) -> list[Comparison]:
    """Return one comparison per family of rows, in the order of the rows."""
    families: dict[tuple[str, str, int, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    return [compare_family(family) for family in families.values()]


def compare_family(rows: Sequence[Row]) -> Comparison:
    """Compare every pair of rows of one family."""
    pairs = list(combinations(range(len(rows)), 2))
    differences = {(i, j): stats.paired_difference(rows[i].accuracies, rows[j].accuracies) for i, j in pairs}
    p_values = np.ones((len(rows), len(rows)))
    for (i, j), p in zip(pairs, stats.holm([differences[pair].p_value for pair in pairs]), strict=True):
        p_values[i, j] = p_values[j, i] = p
    return Comparison(tuple(rows), differences, p_values)
