"""Read evaluation files into runs (one number of one trained model) and rows (the same number over all seeds)."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fewshot.backbones import BACKBONES
from fewshot.errors import DataError, reason_of
from fewshot.files import read_json, read_npz
from fewshot.heads import HEADS
from fewshot.report import stats
from fewshot.report.inputs import ReportEntry
from fewshot.report.stats import Estimate


@dataclass(frozen=True)
class Run:
    """Accuracy of one trained model at one shot.

    Attributes:
        entry: where it comes from.
        protocol: the evaluation file without its results: settings, hashes, versions.
        shot: support images per class.
        selection: "single" checkpoint or "ensemble" of checkpoints.
        accuracies: (E,), 0..1, one per test episode.
        unconverged: episodes whose solver did not reach its tolerance.
        max_kkt_residual: largest relative residual of the solver; None for closed forms.
        episodes_hash: hash of the episodes at this shot; runs with equal hashes are paired.
    """

    entry: ReportEntry
    protocol: dict[str, Any]
    shot: int
    selection: str
    accuracies: np.ndarray
    unconverged: int
    max_kkt_residual: float | None
    episodes_hash: str

    @property
    def recipe(self) -> dict[str, Any]:
        """Values of the training settings."""
        return self.protocol["train"]["recipe"]

    @property
    def estimate(self) -> Estimate:
        """Accuracy of this model, with its error over episodes."""
        return stats.over_episodes(self.accuracies)


def settings_hash(train_settings: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> str:
    """Return a short hash of all training settings except the seed, and of the changes in evaluation if there are any.

    `expected.yaml` stores hashes of this form.
    """
    settings = {key: value for key, value in train_settings.items() if key != "seed"}
    if changes:
        settings["changes"] = dict(changes)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Row:
    """The runs of one group (all its seeds) with one target, shot and selection.

    Attributes:
        runs: at least one, in the order of the seeds.
    """

    runs: tuple[Run, ...]

    @property
    def entry(self) -> ReportEntry:
        """Entry of the first seed, for what all seeds share."""
        return self.runs[0].entry

    @property
    def protocol(self) -> dict[str, Any]:
        """Protocol of the first seed, for what all seeds share."""
        return self.runs[0].protocol

    @property
    def recipe(self) -> dict[str, Any]:
        """Values of the training settings."""
        return self.runs[0].recipe

    @property
    def trainings(self) -> tuple[Path, ...]:
        """Folders of the trained models, in the order of the seeds; variants of a test have the same."""
        return tuple(run.entry.train_dir for run in self.runs)

    @property
    def is_trained(self) -> bool:
        """Whether the model differs from its random initialisation."""
        return bool(self.recipe["epochs"]) or "weights" in self.protocol["train"]

    @property
    def shot(self) -> int:
        """Support images per class."""
        return self.runs[0].shot

    @property
    def selection(self) -> str:
        """Which model was tested: "single" or "ensemble"."""
        return self.runs[0].selection

    @property
    def settings_hash(self) -> str:
        """Short hash of all training settings except the seed, and of the changes in evaluation."""
        return settings_hash(self.protocol["train"], self.changes)

    @property
    def changes(self) -> dict[str, Any]:
        """Settings of the evaluation that differ from those of the training."""
        return self.protocol.get("changes", {})

    @property
    def backbone(self) -> dict[str, Any]:
        """Name and all settings of the backbone as it was trained, those that results leave out too."""
        trained = self.protocol["train"]["backbone"]
        part = BACKBONES.get(trained["name"])
        if part is None or part.settings is None:
            return dict(trained)
        settings = part.typed({name: value for name, value in trained.items() if name != "name"})
        return {"name": trained["name"], **{name: getattr(settings, name) for name in type(settings).model_fields}}

    @property
    def tested_backbone(self) -> dict[str, Any]:
        """Name and all settings of the backbone as it was tested."""
        return {**self.backbone, **{name: value for name, value in self.changes.items() if name == "pooling"}}

    @property
    def tested_learner(self) -> dict[str, Any]:
        """Name and all settings of the learner as it was tested."""
        head, given = self.changes.get("head"), self.changes.get("head_settings", {})
        trained = self.protocol["train"]["learner"]
        treatment = {name: value for name, value in self.changes.items() if name in ("l2", "centre")}
        if "head" in trained:  # trained on minibatches, and tested with a head
            own = trained["head_settings"] if head is None else {}
            return {**trained, "head": head or trained["head"], "head_settings": {**own, **given}, **treatment}
        if head is not None:
            return {"name": head, **HEADS[head].typed(given).model_dump(mode="json")}
        inner = {name: value for name, value in self.changes.items() if name in ("inner_steps", "batch_norm")}
        return {**trained, **given, **inner}

    @property
    def family(self) -> tuple[str, str, int, int, str]:
        """What rows must share to be compared pairwise: the same frozen episodes."""
        way, episodes = self.protocol["n_way"], self.runs[0].episodes_hash
        return self.entry.dataset, self.entry.target, way, self.shot, episodes

    def is_paired_with(self, other: "Row") -> bool:
        """Whether both rows have the same training seeds and frozen episodes, in the same order."""
        ours, theirs = ([run.entry.seed for run in row.runs] for row in (self, other))
        return self.family == other.family and ours == theirs

    @cached_property
    def accuracies(self) -> np.ndarray:
        """(S, E), 0..1: seeds x episodes."""
        return np.stack([run.accuracies for run in self.runs])

    @cached_property
    def estimate(self) -> Estimate:
        """Mean accuracy; the error is over episodes for one seed, over episodes and seeds for several."""
        return stats.over_both(self.accuracies)

    @property
    def interval(self) -> str:
        """What the interval of `estimate` covers."""
        return "episodes and seeds" if len(self.runs) > 1 else "episodes"


def read_runs(entry: ReportEntry) -> list[Run]:
    """Read every number of one evaluation.

    Raises:
        DataError: if a file is damaged, or the arrays do not match the JSON file.
    """
    advice = f"delete {entry.evaluation.parent} and run: {entry.command}"
    protocol, arrays = read_json(entry.evaluation, advice=advice), read_npz(entry.arrays, advice=advice)
    try:
        results = protocol.pop("results")
        return [_run(entry, protocol, result, arrays) for result in results]
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{entry.evaluation}: not a complete evaluation ({type(error).__name__}: {reason_of(error)}); {advice}"
        ) from error


def _run(entry: ReportEntry, protocol: dict[str, Any], result: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Run:
    accuracies = np.asarray(arrays[f"accuracy/{result['selection']}/{result['shot']}shot"], dtype=np.float64)
    if accuracies.shape != (result["episodes"],) or abs(accuracies.mean() - result["accuracy"]) > 1e-6:
        raise ValueError(f"the {result['shot']}-shot accuracies in {entry.arrays.name} do not match it")
    return Run(
        entry,
        protocol,
        int(result["shot"]),
        result["selection"],
        accuracies,
        int(result.get("unconverged") or 0),
        result.get("max_kkt_residual"),
        result.get("episodes_hash", protocol["episodes_hash"]),
    )


def group_rows(runs: Iterable[Run]) -> list[Row]:
    """Group runs that differ only in the training seed, in order of first appearance.

    Raises:
        DataError: if the seeds of a group were evaluated on different episodes.
    """
    groups: dict[tuple[str, str, int, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.entry.group, run.entry.target, run.shot, run.selection].append(run)
    rows = [Row(tuple(sorted(group, key=lambda run: run.entry.seed))) for group in groups.values()]
    for row in rows:
        _check_same_episodes(row)
    return rows


def _check_same_episodes(row: Row) -> None:
    hashes = {run.episodes_hash for run in row.runs}
    if len(hashes) > 1 or len({run.accuracies.shape for run in row.runs}) > 1:
        files = ", ".join(str(run.entry.evaluation) for run in row.runs)
        raise DataError(f"{row.entry.group}: seeds were evaluated on different episodes; evaluate them again: {files}")


def group_labels(rows: Sequence[Row]) -> dict[str, str]:
    """Label groups by learner and by what was changed: "maml (inner_steps 2; quick-5shot)".

    Settings that differ from the learner's defaults are part of the entry's learner. Recipe and overrides are added
    where they tell rows apart, or overrides were given, or nothing was trained.

    Returns:
        group -> label.
    """
    groups = {row.entry.group: row for row in rows}
    variants: dict[str, set[str]] = defaultdict(set)
    for row in groups.values():
        variants[row.entry.dataset].add(row.entry.variant)

    def label(row: Row) -> str:
        entry = row.entry
        is_plain = variants[entry.dataset] == {entry.recipe} and row.is_trained
        return entry.learner if is_plain else _with_variant(entry.learner, entry.variant)

    return {group: label(row) for group, row in groups.items()}


def _with_variant(learner: str, variant: str) -> str:
    """Return "ridge (quick)" or "maml (inner_steps 2; quick)"."""
    return f"{learner[:-1]}; {variant})" if learner.endswith(")") else f"{learner} ({variant})"


def what_was_tested(row: Row) -> list[str]:
    """Return, in words, what was changed for the test: ["tested with head ridge"]."""
    return [f"tested with {name.replace('_', ' ')} {_plain(value)}" for name, value in row.changes.items()]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {setting}" for name, setting in value.items())
    return str(value)
