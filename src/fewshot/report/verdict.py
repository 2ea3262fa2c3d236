"""Compare our numbers with published ones by the rule in docs/protocol.md.

The published number of a row is the closest one (`matching.py`). If a departure from it remains, the verdict is "not
comparable". Otherwise it is "agrees" if the difference (`difference.py`) is within the margin with 90 % confidence,
else "higher" or "lower" if it is significant, corrected over all comparable numbers of the suite, else "undecided".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fewshot.experiments.params import Report
from fewshot.report import stats
from fewshot.report.compare import SIGNIFICANT
from fewshot.report.difference import difference
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
    def text(self) -> str:
        """The verdict, saying so if the number is quoted: "agrees, quoted"."""
        quoted = self.is_comparable and self.number is not None and self.number.quoted
        return f"{self.word}, quoted" if quoted else self.word

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader must know about the comparison: the reasons, and who quotes the number."""
        quoted = self.number.quoted if self.number is not None else ""
        return (*self.reasons, *([quoted] if quoted else []))


def judge_rows(rows: Sequence[Row], numbers: Sequence[Published], settings: Report) -> list[Verdict]:
    """Return the verdicts on the rows of a suite, in order.

    Args:
        rows: all rows of the suite: significance is corrected over those that are comparable (Holm 1979).
        numbers: the published and expected numbers.
        settings: the margin of agreement, and the assumed deviation between training runs.
    """
    matched = [_compared(row, closest(row, numbers), settings) for row in rows]
    comparable = [verdict.difference for verdict in matched if verdict.is_comparable and verdict.difference is not None]
    corrected = iter(stats.holm([difference.p_value for difference in comparable]))
    return [
        _decided(verdict, float(next(corrected)), settings) if verdict.is_comparable else verdict for verdict in matched
    ]


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
    gap, word = verdict.difference, verdict.word
    if abs(gap.mean) + gap.half_width(EQUIVALENCE_CONFIDENCE) <= settings.margin_pct / 100:
        word = "agrees"
    elif p_value < SIGNIFICANT:
        word = "higher" if gap.mean > 0 else "lower"
    return replace(verdict, word=word, p_value=p_value)
