"""Trainings of 200 steps on real images of characters: the transformed and fused forms beside the plain ones.

Run from the root of the repository: python -m benchmarks.same_learning
"""

import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from benchmarks.measure import table, write_section

from fewshot.datasets import DATASETS
from fewshot.datasets.prepare import build_store
from fewshot.datasets.store import SplitStore
from fewshot.experiments.build import initial_learner
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.reader import read_params
from fewshot.settings import parse_as
from fewshot.training.allocator import keep_freed_memory
from fewshot.training.outer_step import OuterStep

STEPS, LAST = 200, 50

QUICK = {"dataset": "glyphs", "recipe": "quick", "seed": [0, 1]}
EPISODIC = {**QUICK, "learner": "ridge", "meta_batch": 1, "n_query": 5, "precision": ["float32", "bfloat16"]}
RESNET12 = {**EPISODIC, "backbone": "resnet12", "optimizer": "sgd", "learning_rate": 0.05, "seed": 0}
CONV4 = {**EPISODIC, "backbone": "conv4"}
MAML = {**QUICK, "backbone": "conv4_maml_16", "learner": "maml_quick", "meta_batch": 2}


def never(*_: object) -> bool:
    return False


@dataclass(frozen=True)
class Rivals:
    """Two forms of the same computation.

    Attributes:
        fast: name of the fast form, which is the default.
        block: of a suite, whose trainings take the fast form.
        plain: settings with which they take the plain form.
        switched_off: name of the function that chooses the fast form, if there is no setting.
    """

    fast: str
    block: dict[str, Any]
    plain: dict[str, Any]
    switched_off: str = ""

    def without(self) -> AbstractContextManager[object]:
        """Return a context in which the plain form is taken."""
        return patch(self.switched_off, never) if self.switched_off else nullcontext()


RIVALS = [
    Rivals("Winograd's and im2col's convolutions", RESNET12, {"backbone.convolutions": "direct"}),
    Rivals("moments and pool in one pass", CONV4, {}, "fewshot.backbones.pooled_block._takes_compiled_loops"),
    Rivals("a stage as one function", MAML, {}, "fewshot.backbones.conv4_maml.is_on_cpu"),
]


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        settings = parse_as(DATASETS["glyphs"].settings, {}, where="prepare.glyphs")
        split = build_store("glyphs", settings, Path(folder), Path(folder) / "store").split("train")
        rows = [row for rivals in RIVALS for row in compare(rivals, split)]
    write_section(
        "same_learning",
        "The same learning in the fast forms",
        [
            f"Trainings of {STEPS} steps on the images of the data set `glyphs`, with the fast form and with torch's "
            f"plain operations, from the same initial weights and on the same episodes: mean loss and accuracy over "
            f"the last {LAST} steps. Rounding differs, so that after many steps the weights do too; another seed "
            "changes far more.",
            table(
                ["fast form", "learner", "precision", "seed", "loss, plain", "fast", "accuracy, plain", "fast"], rows
            ),
        ],
        packages=["numba"],
    )


def compare(rivals: Rivals, split: SplitStore) -> list[list[str]]:
    """Return a row per training of a block."""
    rows = []
    for fast, plain in zip(experiments(rivals.block), experiments({**rivals.block, **rivals.plain}), strict=True):
        with rivals.without():
            expected = train(plain, split)
        found = train(fast, split)
        if found == expected:
            raise SystemExit(f"{rivals.fast}: both trainings have the same bits, so one form was taken twice")
        losses, accuracies = zip(expected, found, strict=True)
        learner = f"{fast.backbone.name}, {fast.learner.name}"
        numbers = [*(f"{loss:.4f}" for loss in losses), *(f"{100 * accuracy:.1f} %" for accuracy in accuracies)]
        rows.append([rivals.fast, learner, fast.recipe.precision, str(fast.seed), *numbers])
        print(table(["", "", "", "", "", "", "", ""], rows[-1:]).splitlines()[-1], flush=True)
    return rows


def experiments(block: dict[str, Any]) -> list[Experiment]:
    return suite_experiments(read_params(overrides={"suites": {"same": [block]}, "suite": "same"}), "same")


def train(experiment: Experiment, split: SplitStore) -> tuple[float, float]:
    """Return mean loss and accuracy over the last steps of a training."""
    outer_step = OuterStep(experiment, split, initial_learner(experiment))
    taken = [outer_step.take(step) for step in range(STEPS)]
    loss, accuracy = np.mean(taken[-LAST:], axis=0)
    return float(loss), float(accuracy)


if __name__ == "__main__":
    main()
