"""What is measured after each epoch, on the same validation episodes: accuracy, and the inner gradients."""

import math

import numpy as np
import torch

from fewshot.datasets.store import SplitStore, Store
from fewshot.episodes.draw import EpisodeIndices, draw_episodes
from fewshot.evaluation.diagnose import diagnose_episodes
from fewshot.evaluation.interval import mean_ci95
from fewshot.evaluation.scoring import score_episodes
from fewshot.experiments.build import preprocessing
from fewshot.experiments.experiment import Experiment
from fewshot.learners.base import Learner
from fewshot.training.history import gradient_norm_columns


def validate(
    experiment: Experiment, store: Store, learner: Learner, device: torch.device
) -> tuple[float, float] | None:
    """Score a learner on the validation episodes.

    Returns:
        Accuracy (0..1) and the half width of its 95 % interval; None if the recipe has no validation episodes.

    Raises:
        NumericalError: if the learner's adaptation gives values that are not finite.
    """
    validation = experiment.recipe.validation
    if not validation.episodes:
        return None
    split, shot = store.split("validation"), validation.n_shot
    episodes = _first_episodes(experiment, split, validation.episodes)
    scores = score_episodes([learner], split, episodes, [shot], preprocessing(experiment), device)
    return mean_ci95(scores[shot].accuracies)


def inner_gradient_norms(
    experiment: Experiment, store: Store, learner: Learner, device: torch.device
) -> dict[str, float | None]:
    """Return the norm of the inner gradient of each layer, by its column in the history.

    It is the mean over the inner steps, and the median over the first validation episodes
    (`validation.inner_gradients`); None for a layer that is not adapted. {} if the recipe asks for no episodes, or the
    learner does not adapt by gradient steps.

    Raises:
        NumericalError: if the learner's adaptation gives values that are not finite.
    """
    validation = experiment.recipe.validation
    if not validation.inner_gradients:
        return {}
    split = store.split("validation")
    episodes = _first_episodes(experiment, split, validation.inner_gradients)
    found = diagnose_episodes(learner, split, episodes, validation.n_shot, preprocessing(experiment), device)
    if not found:
        return {}
    norms = np.median(found["gradient_norm"].mean(axis=1), axis=0).tolist()
    return {
        column: None if math.isnan(norm) else norm
        for column, norm in zip(gradient_norm_columns(len(norms)), norms, strict=True)
    }


def _first_episodes(experiment: Experiment, split: SplitStore, count: int) -> EpisodeIndices:
    form = experiment.recipe.validation_form
    return draw_episodes(experiment.seed, "validation", np.arange(count), form, split.class_sizes)
