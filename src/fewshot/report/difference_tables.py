"""Differences between rows: the records of differences.csv, and the lines of those that were expected."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from fewshot.report.compare import Difference
from fewshot.report.contents import Contents, row_name
from fewshot.report.measure import Row
from fewshot.report.text import decimal, signed_points
from fewshot.report.verdict import DifferenceVerdict

TITLE = "Differences that were expected"
HEADER = ("Shot", "A", "B", "A - B", "expected", "gap", "verdict")
RULE = ("---:", "---", "---", "---:", "---:", "---:", "---")
UNEXPECTED = ("higher", "lower")
LEGEND = "A - B on the same episodes, percentage points; the gap to the expected difference with its 95 % interval."


def difference_records(contents: Contents) -> list[dict[str, Any]]:
    """Return the rows of differences.csv: every pair of rows tested on the same episodes, A minus B."""
    verdicts = {(id(found.a), id(found.b)): found for found in contents.expected_differences}
    return [_record(contents, a, b, gap, verdicts.get((id(a), id(b)))) for a, b, gap in contents.pairs]


def _record(contents: Contents, a: Row, b: Row, gap: Difference, found: DifferenceVerdict | None) -> dict[str, Any]:
    return {
        "train_dataset": a.entry.dataset,
        "target": a.entry.target,
        "way": a.protocol["n_way"],
        "shot": a.shot,
        "a": row_name(contents.labels, a),
        "b": row_name(contents.labels, b),
        "a_experiment": a.entry.group,
        "b_experiment": b.entry.group,
        "a_selection": a.selection,
        "b_selection": b.selection,
        "difference_pct": decimal(100 * gap.estimate.mean),
        "ci95_pct": decimal(100 * gap.estimate.ci95),
        "p_holm": f"{gap.p_value:.3g}",
        "a_is": gap.word,
        "expected_pct": decimal(found.expected.difference_pct, 2) if found else "",
        "expected_run_sd_pct": decimal(found.expected.run_sd_pct) if found else "",
        "gap_pct": decimal(100 * found.gap.mean) if found else "",
        "gap_ci95_pct": decimal(100 * found.gap.ci95) if found else "",
        "verdict": found.word if found else "",
        "verdict_p_holm": decimal(found.p_value) if found else "",
        "episodes_hash": a.runs[0].episodes_hash,
    }


def expected_lines(contents: Contents) -> Iterator[tuple[str, ...]]:
    """Yield the texts of each difference that was expected, in the columns of `HEADER`."""
    for found in contents.expected_differences:
        yield _line(contents, found)


def unexpected_lines(contents: Contents) -> list[tuple[str, ...]]:
    """Return those lines of `expected_lines` whose difference came out higher or lower."""
    return [_line(contents, found) for found in contents.expected_differences if found.word in UNEXPECTED]


def expected_in_short(contents: Contents) -> str:
    """Return a sentence: how many differences came out as expected."""
    words = Counter(found.word for found in contents.expected_differences)
    counts = ", ".join(f"{count} {'agree' if word == 'agrees' else word}" for word, count in words.most_common())
    return f"Of {words.total()} differences that were expected: {counts} (differences.csv)."


def _line(contents: Contents, found: DifferenceVerdict) -> tuple[str, ...]:
    return (
        str(found.a.shot),
        row_name(contents.labels, found.a),
        row_name(contents.labels, found.b),
        f"{100 * (found.a.estimate.mean - found.b.estimate.mean):+.2f}",
        f"{found.expected.difference_pct:+.2f}",
        signed_points(found.gap),
        found.word,
    )
