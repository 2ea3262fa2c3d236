"""Fixtures shared by several test folders: a tiny prepared data set and tiny experiments on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewshot.datasets.store import SplitPlan, Store, write_store
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Params
from fewshot.learners import CLASSIFIERS
from fewshot.settings import parse_as

IMAGE_SIZE = 16
IMAGES_PER_CLASS = 12
CLASSES = {"train": 8, "validation": 6, "test": 6}

TINY_RECIPE: dict[str, Any] = {
    "n_way": 3, "n_shot": 2, "n_query": 3, "meta_batch": 2, "epochs": 3, "steps_per_epoch": 4,
    "image_size": IMAGE_SIZE, "validation": {"episodes": 6, "n_shot": 2, "n_query": 3},
}  # fmt: skip


# Recipe of a learner that is trained on minibatches of images
TINY_MINIBATCHES: dict[str, Any] = {
    "n_way": 3, "batch_size": 10, "epochs": 3, "steps_per_epoch": 4,
    "image_size": IMAGE_SIZE, "validation": {"episodes": 6, "n_shot": 2, "n_query": 3},
}  # fmt: skip


def class_patterns(name: str, seed: int) -> SplitPlan:
    """Return a split in which every class is its own pattern with noise."""
    random = np.random.default_rng(seed)
    patterns = random.integers(60, 196, (CLASSES[name], IMAGE_SIZE, IMAGE_SIZE, 3))
    images = (
        (label, np.clip(pattern + random.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8), f"{label}-{number}")
        for label, pattern in enumerate(patterns)
        for number in range(IMAGES_PER_CLASS)
    )
    names = [f"{name} {label}" for label in range(CLASSES[name])]
    return SplitPlan(name, names, [IMAGES_PER_CLASS] * CLASSES[name], images)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store of 16 x 16 images: 8, 6 and 6 classes of 12 images."""
    directory = tmp_path_factory.mktemp("tiny") / "store"
    splits = [class_patterns(name, seed) for seed, name in enumerate(CLASSES)]
    return write_store(directory, "glyphs", (IMAGE_SIZE, IMAGE_SIZE, 3), splits)


@pytest.fixture(scope="session")
def tiny_params():
    """Return a function that returns the parameters of a suite `tiny` with one experiment, as plain values."""

    def values(learner="prototype", backbone="conv4", recipe=None, evaluate=None, **block) -> dict[str, Any]:
        parts = {"dataset": "glyphs", "backbone": backbone, "learner": learner, "recipe": "quick"}
        tiny = TINY_MINIBATCHES if isinstance(learner, str) and learner in CLASSIFIERS else TINY_RECIPE
        return {
            "suite": "tiny",
            "suites": {"tiny": [{**parts, **block}]},
            "recipes": {"quick": {**tiny, **(recipe or {})}},
            "learners": {name: {"n_classes": CLASSES["train"]} for name in CLASSIFIERS},
            "backbones": {"conv4": {"filters": 4}, "conv4_maml": {"filters": 4}},
            "evaluate": {"n_way": 3, "n_query": 4, "episodes": 20, "shots": [1, 3], **(evaluate or {})},
        }

    return values


@pytest.fixture(scope="session")
def tiny_experiment(tiny_params):
    """Return a function that returns one experiment; it takes the arguments of `tiny_params`."""

    def experiment(*arguments, **changes) -> Experiment:
        params = parse_as(Params, tiny_params(*arguments, **changes), where="")
        return suite_experiments(params, "tiny")[0]

    return experiment


@pytest.fixture(autouse=True)
def one_thread():
    """Compute with one thread, as jobs do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty project folder and make it the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
