"""Exports of learners with random weights, and images to classify."""

import numpy as np
import pytest
import torch

from fewshot.experiments.build import initial_learner
from fewshot.sharing.export import export
from fewshot.weights.checkpoint import save_weights


@pytest.fixture
def write_export(tmp_path):
    """Return a function that exports an experiment with its initial weights, and returns the folder."""

    def write(experiment, evaluations=()):
        weights, folder = tmp_path / "weights.safetensors", tmp_path / "model"
        save_weights(weights, initial_learner(experiment))
        export(experiment, weights, folder, train_key="k" * 12, data_hash="d" * 64, evaluations=evaluations)
        return folder

    return write


@pytest.fixture
def exported(tiny_experiment, write_export):
    """Return a function that returns the folder of an export; arguments as for `tiny_params`."""
    return lambda *arguments, **changes: write_export(tiny_experiment(*arguments, **changes))


@pytest.fixture
def coloured_images():
    """Return a function that draws images of one colour with noise; classes differ by colour."""

    def draw(colours, seed=0, size=16):
        random = np.random.default_rng(seed)
        noise = random.normal(0, 20, (len(colours), size, size, 3))
        palette = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [200, 200, 30]])
        return list(np.clip(palette[list(colours)][:, None, None] + noise, 0, 255).astype(np.uint8))

    return draw


@pytest.fixture(autouse=True)
def torch_seed():
    torch.manual_seed(0)
