"""What is checked and timed: one experiment per family of learners in `params.yaml`, on random images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from fewshot.datasets.store import SplitStore, Store
from fewshot.episodes import EpisodeBatch, ImageBatch
from fewshot.errors import ParamsError
from fewshot.experiments.build import initial_learner
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Recipe
from fewshot.experiments.reader import read_params
from fewshot.learners.base import Learner
from fewshot.training.outer_step import training_batch

PARAMS = Path("params.yaml")
SUITES = ("metaoptnet", "cxgrad", "maml_family", "classifiers")
PRECISIONS: tuple[str, ...] = get_args(Recipe.model_fields["precision"].annotation)
FORMS: dict[str, dict[str, Any]] = {name: {"precision": name} for name in PRECISIONS}
COMPILED: dict[str, dict[str, Any]] = {
    f"{name} compiled": {"precision": name, "compile": True} for name in PRECISIONS if name != "float32"
}

EPISODIC = (
    "mini_imagenet-conv4_64-ridge-metaoptnet-s0",
    "mini_imagenet-conv4_64-svm-metaoptnet-s0",
    "mini_imagenet-r2d2-r2d2-metaoptnet-s0",
    "mini_imagenet-resnet12-ridge-metaoptnet_mini-s0",
    "mini_imagenet-resnet12-svm-metaoptnet_mini-s0",
    "cifar_fs-resnet12-ridge-metaoptnet_cifar_fs-s0",
    "cifar_fs-resnet12-svm-metaoptnet_cifar_fs-s0",
    "cifar_fs-r2d2-r2d2-metaoptnet_cifar_fs-s0",
    "cifar_fs-conv4_64-prototype-metaoptnet_cifar_fs-s0",
)
ADAPTIVE = (
    "mini_imagenet-conv4_maml-maml-maml_1shot-s0",
    "mini_imagenet-conv4_maml-maml-maml_5shot-s0",
    "mini_imagenet-conv4_maml-cxgrad-maml_1shot-s0",
    "mini_imagenet-conv4_maml-cxgrad-maml_5shot-s0",
    "mini_imagenet-conv4_maml-anil-maml_1shot-s0",
    "mini_imagenet-conv4_maml_64-boil-maml_1shot-s0",
    "mini_imagenet-conv4_maml-fomaml-maml_1shot-s0",
    "mini_imagenet-conv4_maml_bias-alfa-mamlpp-1shot-validation_1shot-s0",
    "mini_imagenet-conv4_maml_bias-mamlpp_imagenet-mamlpp-1shot-validation_1shot-s0",
    "tiered_imagenet-conv4_maml_64-maml-maml_1shot-epochs250-s0",
    "tiered_imagenet-conv4_maml_64-maml-maml_5shot-epochs250-s0",
)

ON_MINIBATCHES = (
    "cifar_fs-resnet12_pooled-classifier-rfs-s0",
    "mini_imagenet-resnet12_pooled-classifier-rfs_mini-s0",
)


@dataclass(frozen=True)
class Scale:
    """How large the work is.

    Attributes:
        device: what is compared with the CPU, and timed.
        tiny: small images, one task, a single shot: to see on a CPU within seconds that the program works.
    """

    device: torch.device
    tiny: bool = False

    def side(self, experiment: Experiment, *, checking: bool) -> int:
        """Return the side of the images, pixels: agreement does not depend on it and is checked at 32."""
        return 16 if self.tiny else 32 if checking else experiment.image_size

    def synchronize(self) -> None:
        """Wait until the device has done everything that was queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def to(self, experiment: Experiment, *, checking: bool = False, **changes: Any) -> Experiment:
        """Return an experiment at this scale, with changes to its recipe."""
        size = self.side(experiment, checking=checking)
        recipe, validation, small = experiment.recipe, experiment.recipe.validation, {}
        if checking:
            small = {"n_shot": min(recipe.n_shot, 5), "n_query": 3, "meta_batch": 2}
        if checking and recipe.batch_size is not None:
            small = {"batch_size": 16}
        if self.tiny:
            small = {"n_shot": 1, "n_query": 2, "meta_batch": 1}
            small = {"batch_size": 4} if recipe.batch_size is not None else small
            validation = validation.model_copy(update={"episodes": 4, "n_shot": 1, "n_query": 2})
        update = {"image_size": size, "validation": validation, **small, **changes}
        return replace(experiment, recipe=recipe.model_copy(update=update), image_size=size)


@cache
def trainings_of_suites() -> dict[str, dict[str, Experiment]]:
    """Return the trainings of each suite by name, in the order of `params.yaml`."""
    params = read_params(PARAMS)
    return {
        suite: {experiment.training_name: experiment for experiment in suite_experiments(params, suite)}
        for suite in SUITES
    }


def trainings() -> dict[str, Experiment]:
    """Return the trainings of all suites by name."""
    return {name: experiment for suite in trainings_of_suites().values() for name, experiment in suite.items()}


def label(experiment: Experiment) -> str:
    """Return what the tables call the outer step of an experiment."""
    recipe = experiment.recipe
    batch = f"{recipe.n_shot}-shot" if recipe.batch_size is None else f"{recipe.batch_size} images"
    return f"{experiment.backbone.label} {experiment.learner.label}, {batch}, {experiment.image_size} px"


def offered_forms(experiment: Experiment) -> Iterator[str]:
    """Yield those of `FORMS` in which an experiment can be trained."""
    for name, changes in FORMS.items():
        try:
            initial_learner(replace(experiment, recipe=experiment.recipe.model_copy(update=changes)))
        except ParamsError:
            continue
        yield name


@cache
def random_split(name: str, size: int, classes: int, per_class: int) -> SplitStore:
    """Return a split of random images."""
    values = np.random.default_rng(0).bytes(classes * per_class * size * size * 3)
    images = np.frombuffer(values, np.uint8).reshape(-1, size, size, 3)
    names = tuple(f"{name} {number}" for number in range(classes))
    return SplitStore(name, images, names, np.full(classes, per_class, np.int64), ())


def random_store(size: int, *, tiny: bool) -> Store:
    """Return a data set of random images with the numbers of miniImageNet's images and classes."""
    per_class = 12 if tiny else 600
    splits = {"train": random_split("train", size, 64, per_class)}
    splits["validation"] = random_split("validation", size, 16, per_class)
    return Store("random", Path("random"), splits, "random", {})


def checked_split(size: int) -> SplitStore:
    """Return the images on which devices are compared."""
    return random_split("train", size, 20, 60)


def drawn_batch(experiment: Experiment, split: SplitStore, step: int) -> EpisodeBatch | ImageBatch:
    """Return the meta-batch or the minibatch of an outer step as stored, on the CPU."""
    batch: EpisodeBatch | ImageBatch = training_batch(experiment, split, step)
    return batch


def without_dropout(learner: Learner) -> Learner:
    """Switch dropout off: its random numbers differ between devices."""
    for module in learner.modules():
        for name in {"p", "rate"} & vars(module).keys():
            setattr(module, name, 0.0)
    return learner
