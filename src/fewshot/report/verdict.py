"""Compare our numbers with published ones by the rule in docs/protocol.md.

1. Find the published numbers of the same data set, target, backbone, learner, ways and shots; an untrained learner has
   none.
2. Collect the reasons why each is not comparable; take the number with the fewest (ties: the first in the file).
3. If a reason remains, the verdict is "not comparable". Otherwise it is "agrees" if the 95 % interval of the difference
   contains zero, else "higher" or "lower".
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy import stats as scipy_stats

from fewshot.evaluation.interval import CONFIDENCE
from fewshot.report import stats
from fewshot.report.measure import Row
from fewshot.report.published import Published
from fewshot.report.stats import ErrorPart, Estimate

Word = Literal["agrees", "higher", "lower", "not comparable", "none published"]

_Z95 = float(scipy_stats.norm.ppf(0.5 + CONFIDENCE / 2))


@dataclass(frozen=True)
class Verdict:
    """Result of a comparison.

    Attributes:
        word: the verdict.
        reasons: why the numbers are not comparable; empty otherwise.
        number: the published number; None if there is none.
        difference: ours - published, 0..1, with its errors; None without a number.
        others: further published numbers of the same method, for the reader.
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
    """Return whether a published number has the same data set, target, backbone, learner, ways and shots.

    An untrained learner is not a published method; it can only have an expected number.
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
    """Return the reasons why two numbers of the same cell are not comparable."""
    train, recipe, protocol = row.protocol["train"], row.recipe, number.protocol
    reasons = [] if protocol.confirmed else ["unconfirmed source"]
    reasons += ["weights come from elsewhere"] if "weights" in train else []
    reasons += _unequal("selection", row.selection, protocol.selection)
    reasons += _unequal("training classes", recipe["train_split"], protocol.train_split)
    reasons += _unequal("batch norm", row.protocol["batch_norm"], protocol.batch_norm)
    reasons += _unequal("split", row.protocol["split"], "test")
    reasons += _other_settings("backbone", train["backbone"], number.backbone or {})
    reasons += _other_settings("learner", train["learner"], number.learner or {})
    if number.settings_hash is not None:
        same = row.settings_hash == number.settings_hash
        return (*reasons, *([] if same else ["settings differ from those of the expected number"]))
    if number.training is None:
        return (*reasons, "the source's training settings are not known")
    return (*reasons, *_other_training(recipe, number.training))


def _unequal(what: str, ours: Any, published: Any) -> list[str]:
    return [] if ours == published else [f"{what}: {ours}, published {published}"]


def _other_settings(part: str, ours: Mapping[str, Any], published: Mapping[str, Any]) -> list[str]:
    return [
        f"other {part}: {key} {ours.get(key)}, published {value}"
        for key, value in published.items()
        if ours.get(key) != value
    ]


def _other_training(recipe: Mapping[str, Any], published: Mapping[str, Any]) -> list[str]:
    """Compare the recipe values stated by the source; fewer training episodes are one reason, not three."""
    seen, stated = _training_episodes(recipe), _training_episodes(published)
    if seen < stated:
        return [f"reduced training: {seen:,} of {stated:,} episodes".replace(",", " ")]
    ours, theirs = _effective(recipe), _effective(published)
    other = [f"{key} {ours[key]}, published {value}" for key, value in theirs.items() if ours[key] != value]
    return [f"other training settings: {', '.join(other)}"] if other else []


def _training_episodes(recipe: Mapping[str, Any]) -> int:
    return int(recipe["epochs"] * recipe["steps_per_epoch"] * recipe["meta_batch"])


def _effective(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe without the schedule steps that come after its last epoch."""
    schedule = recipe.get("schedule")
    if not isinstance(schedule, list):
        return dict(recipe)
    return {**recipe, "schedule": [step for step in schedule if step[0] < recipe["epochs"]]}


def difference(row: Row, number: Published) -> Estimate:
    """Return ours - published, 0..1, with both errors, and the deviation between runs if one side is a single run.

    Several of our seeds show how much single runs vary; a published number is a single run, so that variation is added
    once more. With one seed, it is known only if the published number includes it (`run_sd_pct`); otherwise the verdict
    is about two single runs.
    """
    runs = stats.run_deviation(row.accuracies)
    if runs is None and number.run_sd_pct is not None:
        runs = ErrorPart(number.run_sd_pct / 100, max(number.seeds - 1, 1))
        single_sides = 1
    else:
        single_sides = 1 if number.seeds == 1 else 0
    scatter = (runs,) if runs is not None and single_sides else ()
    mean = row.estimate.mean - number.accuracy_pct / 100
    return Estimate(mean, (*row.estimate.parts, _published_error(row, number), *scatter))


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
