"""Differences between two rows that this project expects of its own runs: section `differences` of `expected.yaml`.

Two rows that share training seeds and test episodes deviate together: where one training run is a point better than
another, so is each head on its embedding. Their difference varies by a tenth of a point where either accuracy varies by
half a point, so a fault that changes one of them is seen in the difference first.

The expected difference of an episode is that of the accuracies in `expected.npz`. The section adds the deviation
between training runs, which the sums over seeds in that file cannot give.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from fewshot.report.difference import measured_deviation, paired_gap
from fewshot.report.expected_episodes import paired_accuracies
from fewshot.report.measure import Row
from fewshot.report.published import EXPECTED_FILE, Published
from fewshot.report.stats import Estimate
from fewshot.settings import Settings


class ExpectedDifference(Settings):
    """What is expected of row a - row b.

    Attributes:
        a: the first number, by the name of its array in `expected.npz`.
        b: the second number, likewise.
        difference_pct: a - b, percentage points.
        run_sd_pct: its standard deviation between training runs, percentage points.
        seeds: training runs behind it.
    """

    a: str
    b: str
    difference_pct: float
    run_sd_pct: float
    seeds: int

    @property
    def reversed(self) -> "ExpectedDifference":
        """What is expected of b - a."""
        return self.model_copy(update={"a": self.b, "b": self.a, "difference_pct": -self.difference_pct})


@dataclass(frozen=True)
class ComparedDifference:
    """The difference between two rows, next to the expected one.

    Attributes:
        a: the first row.
        b: the second row.
        expected: what is expected of a - b.
        gap: (a - b) - expected, 0..1, with its errors.
    """

    a: Row
    b: Row
    expected: ExpectedDifference
    gap: Estimate


@cache
def expected_differences() -> tuple[ExpectedDifference, ...]:
    """Read the differences of `expected.yaml`; () if the file does not exist."""
    return read_expected_differences(EXPECTED_FILE) if EXPECTED_FILE.is_file() else ()


def read_expected_differences(path: Path) -> tuple[ExpectedDifference, ...]:
    """Read differences that `fewshot.report.expected` wrote."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(ExpectedDifference.model_validate(difference) for difference in content["differences"])


def compare_with_expected(
    rows: Mapping[str, tuple[Row, Published]], differences: Sequence[ExpectedDifference]
) -> Iterator[ComparedDifference]:
    """Yield the expected differences whose two rows are at hand, the first row of the suite minus the second.

    Args:
        rows: array of an expected number -> the row that is comparable with it, and the number; in the suite's order.
        differences: the expected ones.
    """
    order = list(rows)
    for expected in differences:
        if expected.a in rows and expected.b in rows:
            expected = expected if order.index(expected.a) < order.index(expected.b) else expected.reversed
            (a, number_a), (b, number_b) = rows[expected.a], rows[expected.b]
            gap = _gap(a, number_a, b, number_b, expected)
            if gap is not None:
                yield ComparedDifference(a, b, expected, gap)


def _gap(a: Row, number_a: Published, b: Row, number_b: Published, expected: ExpectedDifference) -> Estimate | None:
    """Return (a - b) - expected over the episodes; None for other episodes, or rows of different training seeds."""
    theirs_a, theirs_b = paired_accuracies(a, number_a), paired_accuracies(b, number_b)
    if theirs_a is None or theirs_b is None or not a.is_paired_with(b):
        return None
    ours = a.accuracies - b.accuracies
    run = measured_deviation(expected.run_sd_pct, expected.seeds, ours)
    return paired_gap(ours, theirs_a - theirs_b, run, expected.seeds)
