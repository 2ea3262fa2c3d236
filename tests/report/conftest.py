"""Synthetic evaluations in the format that `fewshot evaluate` writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot.datasets.store import SplitPlan, write_store
from fewshot.evaluation.calibration import calibration_bins
from fewshot.experiments.params import Report
from fewshot.files import write_csv
from fewshot.report import ReportEntry, SuiteReport

EPISODES, CLASSES, PER_CLASS = 60, 6, 24

RECIPE: dict[str, Any] = {
    "n_way": 5, "n_shot": 5, "n_query": 6, "meta_batch": 8, "epochs": 3, "steps_per_epoch": 10, "optimizer": "sgd",
    "learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0005, "schedule": [],
    "label_smoothing": 0.0, "image_size": 32, "normalization": "cifar", "augmentation": {}, "precision": "float32",
    "train_split": "train", "keep_checkpoints": 1, "episodes_per_backward": None, "devices": 1,
    "validation": {"episodes": 200, "n_shot": 5, "n_query": 15},
}  # fmt: skip


def make_store(directory: Path) -> Path:
    """Write a store of noise images with a different brightness per class."""
    rng = np.random.default_rng(0)

    def split(name: str) -> SplitPlan:
        images = (
            (label, rng.integers(30 * label, 60 + 30 * label, (8, 8, 3)).astype(np.uint8), f"{label}-{i}")
            for label in range(CLASSES)
            for i in range(PER_CLASS)
        )
        return SplitPlan(name, [f"{name} {label}" for label in range(CLASSES)], [PER_CLASS] * CLASSES, images)

    write_store(directory, "glyphs", (8, 8, 3), [split(name) for name in ("train", "validation", "test")])
    return directory


class SuiteMaker:
    """Writes evaluations and collects their entries."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root, self.store, self.entries = root, store, []
        self.difficulty = np.random.default_rng(1).normal(0, 0.08, EPISODES)

    def add(
        self,
        learner: str,
        accuracy: float = 0.7,
        *,
        seed: int = 0,
        dataset: str = "glyphs",
        target: str | None = None,
        backbone: dict[str, Any] | None = None,
        learner_settings: dict[str, Any] | None = None,
        recipe: dict[str, Any] | None = None,
        recipe_name: str = "quick",
        shots: tuple[int, ...] = (1, 5),
        selection: str = "single",
        batch_norm: str = "running",
        arrays: dict[str, np.ndarray] | None = None,
        history: bool = True,
        predictions: bool = True,
        episodes: int = EPISODES,
    ) -> ReportEntry:
        """Write one evaluation with a mean accuracy near `accuracy`, 10 points higher per further shot."""
        target, backbone = target or dataset, backbone or {"name": "conv4", "filters": 64}
        group = f"{dataset}-{backbone['name']}-{learner}-{recipe_name}"
        entry = ReportEntry(
            experiment=f"{group}-s{seed}",
            group=group,
            recipe=recipe_name,
            variant=recipe_name,
            dataset=dataset,
            target=target,
            backbone=backbone["name"],
            learner=learner,
            seed=seed,
            evaluation=self.root / "evaluate" / f"{group}-s{seed}" / f"{target}.json",
            train_dir=self.root / "train" / f"{group}-s{seed}",
            prepare_dir=self.root / "prepare",
            store_dir=self.store,
            log=self.root / "logs" / f"{group}-s{seed}.log",
            command=f"snakemake {group}-s{seed}",
        )
        train = {
            "dataset": dataset,
            "backbone": backbone,
            "learner": {"name": learner, **(learner_settings or {})},
            "recipe": {**RECIPE, **(recipe or {})},
            "seed": seed,
        }
        self._evaluation(entry, train, accuracy, shots, selection, batch_norm, arrays or {}, predictions, episodes)
        if history:
            self._history(entry, accuracy)
        self.entries.append(entry)
        return entry

    def _evaluation(  # type: ignore[no-untyped-def]
        self, entry, train, accuracy, shots, selection, batch_norm, arrays, predictions, episodes
    ) -> None:
        rng = np.random.default_rng([entry.seed, sum(entry.group.encode())])
        values, results = dict(arrays), []
        for step, shot in enumerate(shots):
            drawn = np.clip(accuracy + 0.1 * step + self.difficulty[:episodes] + rng.normal(0, 0.04, episodes), 0, 1)
            values[f"accuracy/{selection}/{shot}shot"] = np.round(75 * drawn) / 75
            results.append(
                {"shot": shot, "selection": selection, "accuracy": values[f"accuracy/{selection}/{shot}shot"].mean(),
                 "ci95": 0.0, "episodes": episodes, "unconverged": 0, "max_kkt_residual": None}
            )  # fmt: skip
            values |= sheet_arrays(rng, shot)
            values |= prediction_arrays(shot, accuracy) if predictions else {}
        values["episode_ids"] = np.arange(episodes)
        fewer = f"-{episodes}" if episodes < EPISODES else ""
        content = {
            "key": "a" * 16, "train_key": "b" * 16, "train": train, "target": entry.target, "split": "test",
            "data_hash": "d" * 64, "episodes_hash": f"hash-{entry.target}{fewer}", "n_way": 5, "n_query": 15,
            "episodes": episodes, "evaluate_seed": 0, "batch_norm": batch_norm, "versions": {"torch": "2"},
            "results": results,
        }  # fmt: skip
        entry.evaluation.parent.mkdir(parents=True, exist_ok=True)
        entry.evaluation.write_text(json.dumps(content))
        np.savez(entry.arrays, **values)

    def _history(self, entry: ReportEntry, accuracy: float) -> None:
        entry.train_dir.mkdir(parents=True, exist_ok=True)
        epochs = [
            {"epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch, "train_accuracy": 0.5, "learning_rate": 0.1,
             "validation_accuracy": accuracy - 0.3 / epoch, "validation_ci95": 0.01}
            for epoch in range(1, 4)
        ]  # fmt: skip
        write_csv(entry.train_dir / "history.csv", epochs, list(epochs[0]))
        record = {"seconds": 12.5, "device": "cpu", "versions": {"torch": "2"}}
        (entry.train_dir / "run.json").write_text(json.dumps(record))

    def suite(self, **settings: Any) -> SuiteReport:
        """Return everything added so far."""
        return SuiteReport("quickstart", "f" * 64, tuple(self.entries), Report(**settings))


def sheet_arrays(rng: np.random.Generator, shot: int) -> dict[str, np.ndarray]:
    """Return four 5-way episodes with 3 queries per class, a third of the predictions wrong."""
    classes = np.stack([rng.choice(CLASSES, 5, replace=False) for _ in range(4)])
    images = np.stack([[rng.choice(PER_CLASS, shot + 3, replace=False) for _ in range(5)] for _ in range(4)])
    rows = classes[:, :, None] * PER_CLASS + images
    labels = np.tile(np.repeat(np.arange(5), 3), (4, 1))
    predictions = np.where(rng.random(labels.shape) < 1 / 3, (labels + 1) % 5, labels)
    return {
        f"sheet/{shot}shot/support_rows": rows[:, :, 3:].reshape(4, -1),
        f"sheet/{shot}shot/query_rows": rows[:, :, :3].reshape(4, -1),
        f"sheet/{shot}shot/query_labels": labels,
        f"sheet/{shot}shot/predictions": predictions,
    }


def prediction_arrays(shot: int, accuracy: float) -> dict[str, np.ndarray]:
    """Return predictions for the queries of all episodes; queries of the last class of the split are all wrong."""
    rng = np.random.default_rng(0)
    classes = np.stack([rng.permutation(CLASSES)[:5] for _ in range(EPISODES)]).astype(np.uint8)
    labels = np.tile(np.repeat(np.arange(5, dtype=np.uint8), 15), (EPISODES, 1))
    hard = np.take_along_axis(classes, labels, axis=1) == CLASSES - 1
    correct = (rng.random(labels.shape) < accuracy) & ~hard
    bins = calibration_bins(np.full(labels.shape, accuracy), correct)
    return {
        "episode_classes": classes,
        f"predictions/{shot}shot": np.where(correct, labels, (labels + 1) % 5).astype(np.uint8),
        **{f"calibration/{shot}shot/{name}": values for name, values in bins.items()},
    }


@pytest.fixture
def maker(tmp_path: Path) -> SuiteMaker:
    """Maker of the evaluations of one test."""
    return SuiteMaker(tmp_path / "results", make_store(tmp_path / "store"))


@pytest.fixture(scope="module")
def lasting_maker(tmp_path_factory: pytest.TempPathFactory) -> SuiteMaker:
    """Maker of evaluations shared by the tests of a module."""
    root = tmp_path_factory.mktemp("report")
    return SuiteMaker(root / "results", make_store(root / "store"))
