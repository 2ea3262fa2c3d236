"""What an outer step may ask of a GPU: kernels launched, and times the host waits for the device.

The shapes of the papers with small images, which change neither number.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewshot.datasets.store import SplitStore
from fewshot.experiments.build import initial_learner
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.reader import read_params
from fewshot.training.outer_step import OuterStep
from fewshot.training.parallel import ProcessGroup

PARAMS = Path(__file__).parents[2] / "params.yaml"

# suite, experiment, side of the images, most launches and most synchronisations per outer step
BUDGETS = [
    ("metaoptnet", "mini_imagenet-conv4_64-ridge-metaoptnet-s0", 32, 375, 1),
    ("metaoptnet", "mini_imagenet-conv4_64-svm-metaoptnet-iterations_3-s0", 32, 915, 1),
    pytest.param(
        *("metaoptnet", "mini_imagenet-resnet12-svm-metaoptnet_mini-s0", 16, 1_480, 1), marks=pytest.mark.slow
    ),
    ("classifiers", "cifar_fs-resnet12_pooled-classifier-rfs-logistic_augmented-s0", 16, 600, 1),
    ("cxgrad", "mini_imagenet-conv4_maml-maml-maml_1shot-s0", 20, 1_950, 1),
    ("cxgrad", "mini_imagenet-conv4_maml-cxgrad-maml_1shot-s0", 20, 2_880, 1),
    ("maml_family", "mini_imagenet-conv4_maml-fomaml-maml_1shot-s0", 20, 745, 1),
    ("maml_family", "mini_imagenet-conv4_maml-anil-maml_1shot-s0", 20, 605, 1),
    ("maml_family", "mini_imagenet-conv4_maml_64-boil-maml_1shot-s0", 20, 575, 1),
    ("maml_family", "mini_imagenet-conv4_maml_bias-mamlpp_imagenet-mamlpp-1shot-validation_1shot-s0", 20, 3_010, 1),
    ("maml_family", "mini_imagenet-conv4_maml_bias-alfa-mamlpp-1shot-validation_1shot-s0", 20, 3_850, 1),
]


def planned(suite: str, name: str, size: int) -> Experiment:
    """Return an experiment of params.yaml with images of another size."""
    found = {experiment.name: experiment for experiment in suite_experiments(read_params(PARAMS), suite)}[name]
    recipe = found.recipe.model_copy(update={"image_size": size})
    return replace(found, recipe=recipe, image_size=size)


@pytest.mark.parametrize(("suite", "name", "size", "launches", "synchronisations"), BUDGETS)
def test_an_outer_step_stays_within_its_budget(gpu, suite, name, size, launches, synchronisations):
    experiment = planned(suite, name, size)
    images = np.random.default_rng(0).integers(0, 256, (10 * 30, size, size, 3), np.uint8)
    split = SplitStore("train", images, tuple(map(str, range(10))), np.full(10, 30), ())
    learner = initial_learner(experiment).to(gpu.device)
    step = OuterStep(experiment, split, learner, ProcessGroup(device=gpu.device))
    step.take(0)
    with gpu.counting() as counts:
        step.take(1)
    assert counts.launches <= launches, counts.operations.most_common(10)
    assert counts.synchronisations.total() <= synchronisations, counts.synchronisations
