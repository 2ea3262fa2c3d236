"""Compare our numbers with printed ones by the rule that docs/protocol.md states.

1. Find the printed numbers of the same data set, target, backbone, learner, ways and shots; none for an untrained one.
2. Collect the reasons why each cannot be compared; take the one with the fewest (the file's order decides ties).
3. With a reason left the verdict is "not comparable". Otherwise "agrees" if the 95 % interval of the difference holds
   zero, else "higher" or "lower".
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy import stats as scipy_stats

from fewshot.report import stats
from fewshot.report.measure import Row
from fewshot.report.published import Published
from fewshot.report.stats import ErrorPart, Estimate

Word = Literal["agrees", "higher", "lower", "not comparable", "none published"]

_Z95 = float(scipy_stats.norm.ppf(0.5 + stats.CONFIDENCE / 2))


@dataclass(frozen=True)
class Verdict:
    """What a comparison says.

    Attributes:
        word: the verdict.
        reasons: why it is not comparable; empty otherwise.
        number: the printed number; None if there is none.
        difference: ours - printed, 0..1, with its errors; None without a number.
        others: further printed numbers of the same method, for the reader.
    """

    word: Word
    reasons: tuple[str, ...] = ()
    number: Published | None = None
    difference: Estimate | None = None
    others: tuple[Published, ...] = ()


def judge(row: Row, numbers: Iterable[Published]) -> Verdict:
    """Return the verdict on one row of the table."""
    found = [(incomparability_reasons(row, number), number) for number in numbers if is_same_cell(row, number)]
    if not found:
        return Verdict("none published")
    found.sort(key=lambda pair: len(pair[0]))
    reasons, number = found[0]
    others = tuple(other for _, other in found[1:])
    gap = difference(row, number)
    return Verdict(_word(gap, reasons), reasons, number, gap, others)


def _word(gap: Estimate, reasons: Sequence[str]) -> Word:
    if reasons:
        return "not comparable"
    if abs(gap.mean) <= gap.ci95:
        return "agrees"
    return "higher" if gap.mean > 0 else "lower"


def is_same_cell(row: Row, number: Published) -> bool:
    """Whether a printed number is of the same data set, target, backbone, learner, ways and shots.

    A learner as it was initialised is nobody's published method; it may only have an expected number of its own.
    """
    train = row.protocol["train"]
    if number.settings_hash is None and not row.is_trained:
        return False
    return (
        number.backbone is not None
        and number.learner is not None
        and number.backbone["name"] == train["backbone"]["name"]
        and number.learner["name"] == train["learner"]["name"]
        and (number.dataset, number.target) == (row.entry.dataset, row.entry.target)
        and (number.protocol.n_way, number.shot) == (row.protocol["n_way"], row.shot)
    )


def incomparability_reasons(row: Row, number: Published) -> tuple[str, ...]:
    """Return the reasons why two numbers of the same cell cannot be compared."""
    train, recipe, protocol = row.protocol["train"], row.recipe, number.protocol
    reasons = [] if protocol.confirmed else ["unconfirmed source"]
    reasons += ["weights were taken from elsewhere"] if "weights" in train else []
    reasons += _unequal("selection", row.selection, protocol.selection)
    reasons += _unequal("training classes", recipe["train_split"], protocol.train_split)
    reasons += _unequal("batch norm", row.protocol["batch_norm"], protocol.batch_norm)
    reasons += _unequal("split", row.protocol["split"], "test")
    reasons += _other_settings("backbone", train["backbone"], number.backbone or {})
    reasons += _other_settings("learner", train["learner"], number.learner or {})
    if number.settings_hash is not None:
        return (
            *reasons,
            *([] if row.settings_hash == number.settings_hash else ["other settings than those expected of it"]),
        )
    if number.training is None:
        return (*reasons, "the source's training settings are not known")
    return (*reasons, *_other_training(recipe, number.training))


def _unequal(what: str, ours: Any, printed: Any) -> list[str]:
    return [] if ours == printed else [f"{what}: {ours}, published {printed}"]


def _other_settings(part: str, ours: Mapping[str, Any], printed: Mapping[str, Any]) -> list[str]:
    return [
        f"other {part}: {key} {ours.get(key)}, published {value}"
        for key, value in printed.items()
        if ours.get(key) != value
    ]


def _other_training(recipe: Mapping[str, Any], printed: Mapping[str, Any]) -> list[str]:
    """Compare the recipe values that the source states; fewer training episodes are one reason, not three."""
    seen, stated = _training_episodes(recipe), _training_episodes(printed)
    if seen < stated:
        return [f"reduced training: {seen:,} of {stated:,} episodes".replace(",", " ")]
    ours, theirs = _as_used(recipe), _as_used(printed)
    other = [f"{key} {ours[key]}, published {value}" for key, value in theirs.items() if ours[key] != value]
    return [f"other training settings: {', '.join(other)}"] if other else []


def _training_episodes(recipe: Mapping[str, Any]) -> int:
    return int(recipe["epochs"] * recipe["steps_per_epoch"] * recipe["meta_batch"])


def _as_used(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe without the steps of its schedule that lie behind its last epoch."""
    schedule = recipe.get("schedule")
    if not isinstance(schedule, list):
        return dict(recipe)
    return {**recipe, "schedule": [step for step in schedule if step[0] < recipe["epochs"]]}


def difference(row: Row, number: Published) -> Estimate:
    """Return ours - printed, 0..1: both errors, and the deviation between runs where one side is a single run.

    Our interval over several seeds tells how far single runs scatter; a printed number is one run, so that scatter is
    added once more. With one seed, the scatter is known only if the printed number comes with it (`run_sd_pct`);
    otherwise the verdict is about two single runs.
    """
    runs = stats.run_deviation(row.accuracies)
    if runs is None and number.run_sd_pct is not None:
        runs = ErrorPart(number.run_sd_pct / 100, max(number.seeds - 1, 1))
        single_sides = 1
    else:
        single_sides = 1 if number.seeds == 1 else 0
    scatter = (runs,) if runs is not None and single_sides else ()
    mean = row.estimate.mean - number.accuracy_pct / 100
    return Estimate(mean, (*row.estimate.parts, _printed_error(row, number), *scatter))


def _printed_error(row: Row, number: Published) -> ErrorPart:
    """Return the standard error behind a printed interval.

    An interval that is missing, unconfirmed, or over single predictions says too little: then our own error over
    episodes stands in, scaled to the source's number of episodes where that is known.
    """
    protocol = number.protocol
    if number.ci95_pct is not None and protocol.interval in ("episodes", "seeds") and protocol.interval_confirmed:
        return ErrorPart(number.ci95_pct / 100 / _Z95, math.inf)
    ours = stats.over_episodes(row.accuracies).parts[0]
    scale = math.sqrt(len(row.runs[0].accuracies) / protocol.episodes) if protocol.episodes else 1.0
    return ErrorPart(ours.std_error * scale, ours.dof)
