"""Experiment -> the objects it describes: the untrained learner and the preprocessing of its images."""

import torch

from fewshot.episodes.philox import stream_key
from fewshot.experiments.experiment import Experiment
from fewshot.images.normalization import NORMALIZATIONS
from fewshot.images.preprocess import Preprocess
from fewshot.learners import build_learner
from fewshot.learners.base import Learner


def initial_learner(experiment: Experiment) -> Learner:
    """Build the untrained learner of an experiment; its weights depend only on the seed.

    Raises:
        ParamsError: if backbone, learner and recipe are incompatible.
    """
    torch.manual_seed(torch_seed(experiment, "weights"))
    return build_learner(
        experiment.learner.name,
        backbone=experiment.backbone.name,
        context=experiment.context,
        backbone_settings=dict(experiment.backbone.settings),
        **experiment.learner.settings,
    )


def preprocessing(experiment: Experiment) -> Preprocess:
    """Return the preprocessing of an experiment's images."""
    mean, std = NORMALIZATIONS[experiment.recipe.normalization]
    return Preprocess(
        experiment.image_size,
        mean=[value / 255 for value in mean],
        std=[value / 255 for value in std],
        **experiment.recipe.augmentation.model_dump(),
        seed=experiment.seed,
    )


def torch_seed(experiment: Experiment, *purpose: int | str) -> int:
    """Return the seed of torch's generator for one purpose, such as initial weights or an outer step."""
    low, high = stream_key(experiment.seed, *purpose)
    return int(low) + (int(high) << 31)
