"""Pairwise differences between rows tested on the same frozen episodes, corrected for multiple comparisons."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from fewshot.report import stats
from fewshot.report.measure import Row
from fewshot.report.stats import Estimate

SIGNIFICANT = 0.05

Outcome = Literal["better", "not different", "worse"]


@dataclass(frozen=True)
class Difference:
    """One row minus another on the same episodes.

    Attributes:
        estimate: mean and error, 0..1.
        p_value: of "no difference", corrected by Holm's method over the family.
    """

    estimate: Estimate
    p_value: float

    @property
    def is_significant(self) -> bool:
        """Whether the rows differ at 5 %."""
        return self.p_value < SIGNIFICANT

    @property
    def word(self) -> Outcome:
        """What can be said about the first row."""
        if not self.is_significant:
            return "not different"
        return "better" if self.estimate.mean > 0 else "worse"


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

    def difference(self, i: int, j: int) -> Difference:
        """Return row i - row j, for two different rows."""
        estimate = self.differences[i, j] if i < j else self.differences[j, i].negated
        return Difference(estimate, float(self.p_values[i, j]))

    @property
    def best(self) -> int:
        """Index of the row with the highest mean."""
        return int(np.argmax([row.estimate.mean for row in self.rows]))

    @property
    def from_best(self) -> tuple[Difference | None, ...]:
        """Difference of each row from the best one; None for the best."""
        return tuple(None if i == self.best else self.difference(i, self.best) for i in range(len(self.rows)))

    @property
    def marks(self) -> tuple[str, ...]:
        """Mark of each row: "best" for the highest mean, "tied" if not significantly worse, else ""."""
        if len(self.rows) < 2:
            return ("",) * len(self.rows)
        best = self.best
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
    differences = {(i, j): _difference(rows[i], rows[j]) for i, j in pairs}
    p_values = np.ones((len(rows), len(rows)))
    for (i, j), p in zip(pairs, stats.holm([differences[pair].p_value for pair in pairs]), strict=True):
        p_values[i, j] = p_values[j, i] = p
    return Comparison(tuple(rows), differences, p_values)


def _difference(ours: Row, theirs: Row) -> Estimate:
    """Return the mean of ours - theirs: over the trainings that both have, else as independent trainings."""
    common = [training for training in ours.trainings if training in theirs.trainings]
    if not common:
        return stats.paired_difference(ours.accuracies, theirs.accuracies)
    parts = (row.accuracies[[row.trainings.index(training) for training in common]] for row in (ours, theirs))
    return stats.difference_of_same_trainings(*parts)
