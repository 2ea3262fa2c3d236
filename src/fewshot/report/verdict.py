"""Compare our numbers with published ones by the rule in docs/protocol.md.

1. Find the published numbers of the same data set, target, backbone, learner, ways and shots; an untrained learner has
   none.
2. Collect the departures of our row from each, and take the number with the fewest (ties: one read in a source or
   quoted before one unread, then the first in the file).
3. If a departure remains, the verdict is "not comparable". Otherwise it is "agrees" if the difference is within the
   margin with 90 % confidence, else "higher" or "lower" if it is significant, corrected over all comparable numbers of
   the suite, else "undecided".
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scipy import stats as scipy_stats

from fewshot.evaluation.interval import CONFIDENCE
from fewshot.experiments.params import Report
from fewshot.report import stats
from fewshot.report.compare import SIGNIFICANT
from fewshot.report.expected_episodes import paired_accuracies
from fewshot.report.measure import Row
from fewshot.report.published import RANDOM_WEIGHTS, Published
from fewshot.report.stats import ErrorPart, Estimate

Word = Literal["agrees", "higher", "lower", "undecided", "not comparable", "none published"]

UNREAD = "unread source"
UNKNOWN_TRAINING = "the source's training settings are not known"

# Two one-sided tests at 5 % each: the 90 % interval must be inside the margin (Schuirmann 1987).
EQUIVALENCE_CONFIDENCE = 0.90
# The assumed deviation between training runs (`report.run_sd_pct`) is that of a typical setting; single settings
# deviate by 0.3 to 1.0 points. It counts as an estimate with 4 degrees of freedom, widened so that even settings with
# 1.0 points, replicated exactly, are called different in at most 5 % of suites: t(4) * 1.03 * 0.7 = 2.00 > 1.96
# (tests/report/test_verdict_errors.py).
ASSUMED_DEVIATION_DOF = 4
ASSUMED_DEVIATION_FACTOR = 1.03

_Z95 = float(scipy_stats.norm.ppf(0.5 + CONFIDENCE / 2))


@dataclass(frozen=True)
class Departure:
    """A reason why two numbers are not comparable.

    Attributes:
        text: for the reader.
        size: number of settings that differ, which ranks the published numbers by their distance from a row.
    """

    text: str
    size: int = 1

    @property
    def kind(self) -> str:
        """What differs, without the values: "other backbone"."""
        return self.text.partition(":")[0]


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


@dataclass(frozen=True)
class Match:
    """The published number closest to a row.

    Attributes:
        number: the number; None if none is published.
        departures: what makes the two not comparable.
        others: further published numbers of the same method.
    """

    number: Published | None = None
    departures: tuple[Departure, ...] = ()
    others: tuple[Published, ...] = ()


def closest(row: Row, numbers: Iterable[Published]) -> Match:
    """Return the published number of the same cell with the fewest departures."""
    found = [(departures(row, number), number) for number in numbers if is_same_cell(row, number)]
    if not found:
        return Match()
    found.sort(key=lambda pair: (sum(departure.size for departure in pair[0]), len(pair[0])))
    reasons, number = found[0]
    return Match(number, reasons, tuple(other for _, other in found[1:] if other.reading == "paper"))


def _compared(row: Row, match: Match, settings: Report) -> Verdict:
    """Return the difference from the closest number, not comparable or still undecided."""
    if match.number is None:
        return Verdict("none published")
    reasons = tuple(departure.text for departure in match.departures)
    word: Word = "not comparable" if reasons else "undecided"
    gap = difference(row, match.number, settings.run_sd_pct) if _has_difference(row, match.number) else None
    return Verdict(word, reasons, match.number, gap, others=match.others)


def _has_difference(row: Row, number: Published) -> bool:
    """Return whether a difference means anything: the same network, and for an expected number the same settings."""
    if number.settings_hash is not None:
        return row.settings_hash == number.settings_hash
    return not _other_settings("backbone", row.protocol["train"]["backbone"], number.backbone or {})


def _decided(verdict: Verdict, p_value: float, settings: Report) -> Verdict:
    """Return the verdict on a comparable number, given its corrected p value."""
    assert verdict.difference is not None  # a comparable number has the same network and settings
    gap, word = verdict.difference, verdict.word
    if abs(gap.mean) + gap.half_width(EQUIVALENCE_CONFIDENCE) <= settings.margin_pct / 100:
        word = "agrees"
    elif p_value < SIGNIFICANT:
        word = "higher" if gap.mean > 0 else "lower"
    return replace(verdict, word=word, p_value=p_value)


def is_same_cell(row: Row, number: Published) -> bool:
    """Return whether a published number has the same data set, target, backbone, learner, ways and shots.

    An untrained learner is not a published method; it can only have an expected number. An expected number belongs to
    the experiment of its settings, or of its name.
    """
    train = row.protocol["train"]
    if number.settings_hash is None:
        may_match = row.is_trained
    else:
        may_match = row.settings_hash == number.settings_hash or row.entry.group == number.method
    return (
        may_match
        and number.backbone is not None
        and number.learner is not None
        and number.backbone["name"] == train["backbone"]["name"]
        and number.learner["name"] == row.tested_learner["name"]
        and (number.dataset, number.target) == (row.entry.dataset, row.entry.target)
        and (number.protocol.n_way, number.shot) == (row.protocol["n_way"], row.shot)
    )


def departures(row: Row, number: Published) -> tuple[Departure, ...]:
    """Return what makes two numbers of the same cell not comparable."""
    train, recipe, protocol = row.protocol["train"], row.recipe, number.protocol
    found = [Departure(UNREAD, size=0)] if protocol.confirmed == "unread" else []
    found += [Departure("weights come from elsewhere")] if "weights" in train else []
    found += _unequal("start", _start(train), protocol.start)
    found += _unequal("selection", row.selection, protocol.selection)
    found += _unequal("training classes", recipe["train_split"], protocol.train_split)
    found += _unequal("batch norm", row.protocol["batch_norm"], protocol.batch_norm)
    found += _unequal("split", row.protocol["split"], "test")
    found += _other_settings("backbone", train["backbone"], number.backbone or {})
    found += _other_settings("learner", row.tested_learner, number.learner or {})
    if number.settings_hash is not None:
        same = row.settings_hash == number.settings_hash
        return (*found, *([] if same else [Departure("settings differ from those of the expected number")]))
    averaged = (number.training or {}).get("average_checkpoints", 1)
    found += _unequal("averaged epochs", recipe.get("average_checkpoints", 1), averaged)
    if row.changes.get("head") not in (None, train["learner"]["name"]) and "head" not in train["learner"]:
        found.append(Departure(f"trained with another head: {train['learner']['name']}"))
    found += _unequal(
        "QP solver in the test", _stopped_after(solver_iterations(row)), _stopped_after(protocol.solver_iterations)
    )
    found += _unequal("random augmentations of a support image in the test", 0, protocol.augmented_support)
    if number.training is None:
        return (*found, Departure(UNKNOWN_TRAINING))
    return (*found, *_other_training(recipe, number.training))


def _start(train: Mapping[str, Any]) -> str:
    """Return the learner whose training a training starts from; "random weights" if there is none."""
    return str(train["init"]["learner"]["name"]) if "init" in train else RANDOM_WEIGHTS


def solver_iterations(row: Row) -> int | None:
    """Return after how many iterations the QP solver was stopped in the test; None for an optimum or a closed form."""
    learner = row.tested_learner
    return None if learner.get("solver", "exact") == "exact" else int(learner["max_iterations"])


def _stopped_after(iterations: int | None) -> str:
    return "optimum" if iterations is None else f"{iterations} iterations"


def _unequal(what: str, ours: Any, published: Any) -> list[Departure]:
    return [] if ours == published else [Departure(f"{what}: {ours}, published {published}")]


def _other_settings(part: str, ours: Mapping[str, Any], published: Mapping[str, Any]) -> list[Departure]:
    return [
        Departure(f"other {part}: {key} {ours.get(key)}, published {value}")
        for key, value in published.items()
        if ours.get(key) != value
    ]


# What makes a training longer or shorter: if it is reduced, these are not listed one by one.
_LENGTH = ("epochs", "steps_per_epoch", "meta_batch", "schedule")


def _other_training(recipe: Mapping[str, Any], published: Mapping[str, Any]) -> list[Departure]:
    """Compare the recipe values stated by the source; fewer training episodes are one departure, not three."""
    seen, stated = _training_episodes(recipe), _training_episodes(published)
    reduced = seen < stated
    other = [
        text
        for key, text in _other_values(_effective(recipe), _effective(published))
        if not (reduced and key in _LENGTH)
    ]
    found = [Departure(f"reduced training: {seen:,} of {stated:,} episodes".replace(",", " "))] if reduced else []
    return [*found, *([Departure(f"other training settings: {', '.join(other)}", len(other))] if other else [])]


def _other_values(ours: Mapping[str, Any], published: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return (top-level key, "key ours, published theirs") of each value that differs; sections are compared by key."""
    found = []
    for key, value in published.items():
        if isinstance(value, Mapping):
            nested = _other_values(ours[key], value, f"{prefix}{key}.")
            found += [(key, text) for _, text in nested]
        elif ours.get(key) != value:
            found.append((key, f"{prefix}{key} {ours.get(key)}, published {value}"))
    return found


def _training_episodes(recipe: Mapping[str, Any]) -> int:
    per_step = recipe.get("batch_size") or recipe["meta_batch"]
    return int(recipe["epochs"] * recipe["steps_per_epoch"] * per_step)


def _effective(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe without schedule steps after its last epoch, with the episodes behind a batch-norm statistic."""
    shared = (recipe.get("batch_size") or recipe["meta_batch"]) // (recipe.get("devices") or 1)
    values = {"batch_norm_episodes": recipe.get("episodes_per_backward") or shared, **recipe}
    schedule = recipe.get("schedule")
    if isinstance(schedule, (list, tuple)):
        values["schedule"] = [step for step in schedule if step[0] < recipe["epochs"]]
    return values


def difference(row: Row, number: Published, assumed_run_sd_pct: float) -> Estimate:
    """Return ours - published, 0..1, with the errors over episodes of both and the deviation between training runs.

    An expected number with stored accuracies per episode is compared episode by episode if the episodes are the same.
    """
    theirs = paired_accuracies(row, number)
    if theirs is not None:
        episodes = stats.sample_estimate(row.accuracies.mean(axis=0) - theirs)
        return Estimate(episodes.mean, (*episodes.parts, _scatter(row, number, assumed_run_sd_pct, 1 / number.seeds)))
    published_run = 0.0 if number.protocol.interval == "seeds" else 1.0
    return Estimate(
        row.estimate.mean - number.accuracy_pct / 100,
        (
            *stats.over_episodes(row.accuracies).parts,
            _published_error(row, number),
            _scatter(row, number, assumed_run_sd_pct, published_run),
        ),
    )


def _scatter(row: Row, number: Published, assumed_run_sd_pct: float, published_runs: float) -> ErrorPart:
    """Return the error of a difference due to the training runs.

    Args:
        row: ours; the mean of S runs.
        number: the published number.
        assumed_run_sd_pct: deviation between runs where the number gives none, percentage points.
        published_runs: variance of the published number due to its runs, in units of that of one run; 0 if its own
            interval covers it.
    """
    run = _run_deviation(row, number, assumed_run_sd_pct)
    return ErrorPart(run.std_error * math.sqrt(1 / len(row.runs) + published_runs), run.dof)


def _run_deviation(row: Row, number: Published, assumed_run_sd_pct: float) -> ErrorPart:
    """Return the deviation between single training runs, from the number, our seeds and, if need be, the assumption."""
    ours = stats.run_deviation(row.accuracies)
    if number.run_sd_pct is not None:
        known = ErrorPart(number.run_sd_pct / 100, max(number.seeds - 1, 1))
        return known if ours is None else stats.pooled([known, ours])
    assumed = ErrorPart(ASSUMED_DEVIATION_FACTOR * assumed_run_sd_pct / 100, ASSUMED_DEVIATION_DOF)
    if ours is None:
        return assumed
    # An assumption is no measurement: it does not add degrees of freedom.
    return ErrorPart(stats.pooled([assumed, ours]).std_error, max(assumed.dof, ours.dof))


def _published_error(row: Row, number: Published) -> ErrorPart:
    """Return the standard error behind a published interval.

    An interval that is missing, unconfirmed, or over single predictions is replaced by our own error over episodes,
    scaled to the source's number of episodes if that is known.
    """
    protocol = number.protocol
    if number.ci95_pct is not None and protocol.interval in ("episodes", "seeds") and protocol.interval_confirmed:
        return ErrorPart(number.ci95_pct / 100 / _Z95, math.inf)
    ours = stats.over_episodes(row.accuracies).parts[0]
    scale = math.sqrt(len(row.runs[0].accuracies) / protocol.episodes) if protocol.episodes else 1.0
    return ErrorPart(ours.std_error * scale, ours.dof)
