"""Find the published number of a row, and what makes the two not comparable.

1. The candidates have the same data set, target, backbone, learner, ways and shots; an untrained learner has none.
2. The departures of our row from each are collected, and the number with the fewest is taken (ties: one read in a
   source or quoted before one unread, then the first in the file).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fewshot.report.measure import Row
from fewshot.report.published import RANDOM_WEIGHTS, Published

UNREAD = "unread source"
UNKNOWN_TRAINING = "the source's training settings are not known"


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


def has_difference(row: Row, number: Published) -> bool:
    """Return whether a difference means anything: the same network, and for an expected number the same settings."""
    if number.settings_hash is not None:
        return row.settings_hash == number.settings_hash
    published = number.backbone or {}
    return not any(_other_settings("backbone", ours, published) for ours in (row.backbone, row.tested_backbone))


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
    found += _unequal("query pass in training", row.tested_learner.get("query_precision", "float32"), "float32")
    found += _other_settings("backbone", row.backbone, number.backbone or {})
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
    if "pooling" in row.changes and number.backbone is not None:
        found += _unequal("pooling in the test", row.changes["pooling"], number.backbone.get("pooling"))
    augmented = row.changes.get("augmented_support", 0)
    found += _unequal("random augmentations of a support image in the test", augmented, protocol.augmented_support)
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
    if iterations is None:
        return "optimum"
    return "1 iteration" if iterations == 1 else f"{iterations} iterations"


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
    """Compare the recipe values stated by the source; fewer episodes or images are one departure, not three."""
    seen, stated = _training_length(recipe), _training_length(published)
    reduced = seen < stated
    other = [
        text
        for key, text in _other_values(_effective(recipe), _effective(published))
        if not (reduced and key in _LENGTH)
    ]
    unit = "images" if recipe.get("batch_size") else "episodes"
    found = [Departure(f"reduced training: {seen:,} of {stated:,} {unit}".replace(",", " "))] if reduced else []
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


def _training_length(recipe: Mapping[str, Any]) -> int:
    """Return the number of training episodes, or of images of a classifier."""
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
