"""Compare our numbers with published ones by the rule in docs/protocol.md.

The published number of a row is the closest one (`matching.py`). If a departure from it remains, the verdict is "not
comparable". Otherwise it is "agrees" if the difference (`difference.py`) is within the margin with 90 % confidence,
else "higher" or "lower" if it is significant, corrected over all tests of the suite, else "undecided". For an expected
number, "higher" and "lower" come before "agrees".

Differences between two rows are judged like rows against the expected ones (`expected_differences.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fewshot.experiments.params import Report
from fewshot.report import stats
from fewshot.report.compare import SIGNIFICANT
from fewshot.report.difference import difference
from fewshot.report.expected_differences import ComparedDifference, ExpectedDifference, compare_with_expected
from fewshot.report.matching import Match, closest, has_difference
from fewshot.report.measure import Row
from fewshot.report.published import Published
from fewshot.report.stats import Estimate

Word = Literal["agrees", "higher", "lower", "undecided", "not comparable", "none published"]

# Two one-sided tests at 5 % each: the 90 % interval must be inside the margin (Schuirmann 1987).
EQUIVALENCE_CONFIDENCE = 0.90


@dataclass(frozen=True)
class Verdict:
    """Result of a comparison.

    Attributes:
        word: the verdict.
        reasons: why the numbers are not comparable; empty otherwise.
        number: the published number; None if there is none.
        difference: ours - published, 0..1, with its errors; None without a number, or with one of another network, or
            with an expected number of other settings.
        p_value: of "no difference", corrected over the comparable numbers of the suite; None if not comparable.
        others: further published numbers of the same method, for the reader.
    """

    word: Word
    reasons: tuple[str, ...] = ()
    number: Published | None = None
    difference: Estimate | None = None
    p_value: float | None = None
    others: tuple[Published, ...] = ()

    @property
    def is_comparable(self) -> bool:
        """Whether the two numbers can be compared."""
        return self.number is not None and not self.reasons

    @property
    def is_with_expected(self) -> bool:
        """Whether the number is one that this project expects of its own runs."""
        return self.number is not None and self.number.settings_hash is not None

    @property
    def text(self) -> str:
        """The verdict, saying so if the number is quoted: "agrees, quoted"."""
        quoted = self.is_comparable and self.number is not None and self.number.quoted
        return f"{self.word}, quoted" if quoted else self.word

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader must know about the comparison: the reasons, and who quotes the number."""
        quoted = self.number.quoted if self.number is not None else ""
        return (*self.reasons, *([quoted] if quoted else []))


@dataclass(frozen=True)
class DifferenceVerdict(ComparedDifference):
    """Verdict on the difference between two rows.

    Attributes:
        word: "agrees", "higher" or "lower" than expected, or "undecided".
        p_value: of "no gap", corrected over the tests of the suite.
    """

    word: Word
    p_value: float


@dataclass(frozen=True)
class Judgement:
    """The verdicts on a suite.

    Attributes:
        rows: one per row, in order.
        differences: one per expected difference whose two rows are in the suite.
    """

    rows: tuple[Verdict, ...]
    differences: tuple[DifferenceVerdict, ...]


def judge_suite(
    rows: Sequence[Row],
    numbers: Sequence[Published],
    settings: Report,
    differences: Sequence[ExpectedDifference] = (),
) -> Judgement:
    """Return the verdicts on the rows of a suite, and on the differences between them.

    Significance is corrected over all tests of the suite together (Holm 1979): one for each comparable row, and one for
    each difference.

    Args:
        rows: all rows of the suite.
        numbers: the published and expected numbers.
        settings: the margin of agreement, and the assumed deviation between training runs.
        differences: the expected differences.
    """
    matched = [_compared(row, closest(row, numbers), settings) for row in rows]
    compared = tuple(compare_with_expected(_with_arrays(rows, matched), differences))
    gaps = [*(found.difference for found in matched if found.is_comparable), *(pair.gap for pair in compared)]
    p_values = iter(float(p) for p in stats.holm([gap.p_value for gap in gaps if gap is not None]))
    verdicts = [_decided(found, next(p_values), settings) if found.is_comparable else found for found in matched]
    return Judgement(tuple(verdicts), tuple(_decided_difference(pair, next(p_values), settings) for pair in compared))


def _with_arrays(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> dict[str, tuple[Row, Published]]:
    """Return array of an expected number -> the row comparable with it, and the number."""
    return {
        verdict.number.episodes.array: (row, verdict.number)
        for row, verdict in zip(rows, verdicts, strict=True)
        if verdict.is_comparable and verdict.number is not None and verdict.number.episodes is not None
    }


def _compared(row: Row, match: Match, settings: Report) -> Verdict:
    """Return the difference from the closest number, not comparable or still undecided."""
    if match.number is None:
        return Verdict("none published")
    reasons = tuple(departure.text for departure in match.departures)
    word: Word = "not comparable" if reasons else "undecided"
    gap = difference(row, match.number, settings.run_sd_pct) if has_difference(row, match.number) else None
    return Verdict(word, reasons, match.number, gap, others=match.others)


def _decided(verdict: Verdict, p_value: float, settings: Report) -> Verdict:
    """Return the verdict on a comparable number, given its corrected p value."""
    assert verdict.difference is not None  # a comparable number has the same network and settings
    word = _word(verdict.difference, p_value, settings, is_expected=verdict.is_with_expected)
    return replace(verdict, word=word, p_value=p_value)


def _decided_difference(found: ComparedDifference, p_value: float, settings: Report) -> DifferenceVerdict:
    word = _word(found.gap, p_value, settings, is_expected=True)
    return DifferenceVerdict(found.a, found.b, found.expected, found.gap, word, p_value)


def _word(gap: Estimate, p_value: float, settings: Report, *, is_expected: bool) -> Word:
    """Return what can be said about a gap, given its corrected p value.

    A significant gap within the margin is no disagreement with a published number: another program differs in details.
    What this project expects of itself is made by the same program, so there a significant gap of any size is a change.
    """
    is_within = abs(gap.mean) + gap.half_width(EQUIVALENCE_CONFIDENCE) <= settings.margin_pct / 100
    if p_value < SIGNIFICANT and (is_expected or not is_within):
        return "higher" if gap.mean > 0 else "lower"
    return "agrees" if is_within else "undecided"
