"""Model selection: validate after each epoch, keep the best states, publish them as the result.

What is measured on the validation episodes apart from accuracy, the inner gradients, is here too.
"""

import math
import shutil
from pathlib import Path

import numpy as np
import torch

from fewshot.datasets.store import SplitStore, Store
from fewshot.episodes.batch import gather_batch
from fewshot.episodes.draw import EpisodeIndices, draw_episodes
from fewshot.errors import CheckpointError
from fewshot.evaluation.interval import mean_ci95
from fewshot.evaluation.scoring import score_episodes
from fewshot.experiments.build import preprocessing
from fewshot.experiments.experiment import Experiment
from fewshot.learners.base import Learner
from fewshot.training.history import gradient_norm_columns, write_history
from fewshot.training.state import Kept, TrainingState
from fewshot.weights.checkpoint import DamagedError, load_weights, save_weights
from fewshot.weights.foreign import load_foreign_weights


def validate(
    experiment: Experiment, store: Store, learner: Learner, device: torch.device
) -> tuple[float, float] | None:
    """Score a learner on the validation episodes, which are the same after every epoch.

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
    learner does not adapt by gradient steps. The learner is in evaluation mode.
    """
    validation = experiment.recipe.validation
    if not validation.inner_gradients:
        return {}
    split = store.split("validation")
    episodes = _first_episodes(experiment, split, validation.inner_gradients)
    raw = gather_batch(split.images, split.class_starts, episodes, validation.n_shot)
    found = learner.diagnose(preprocessing(experiment)(raw.to(device), training=False))
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


def keep_if_best(state: TrainingState, accuracy: float, epoch: int, at_most: int) -> None:
    """Keep the weights after an epoch if they are among the `at_most` best; earlier epochs win ties."""
    new = Kept(accuracy, epoch, sha256="")
    ranked = sorted([*state.progress.kept, new], key=lambda kept: (-kept.accuracy, kept.epoch))[:at_most]
    if new in ranked:
        state.checkpoints.folder.mkdir(parents=True, exist_ok=True)  # in case `cache/` was deleted
        sha256 = save_weights(state.checkpoints.kept_state(epoch), state.learner)
        state.progress.kept = [new._replace(sha256=sha256) if kept is new else kept for kept in ranked]


def publish(out: Path, state: TrainingState, *, ensemble: bool) -> None:
    """Write the results: the history, and the best state (without validation: the last) as the weights.

    Args:
        out: folder that gets weights.safetensors, history.csv and ensemble/epoch-<n>.safetensors.
        state: of the finished training.
        ensemble: whether to write all kept states as well.

    Raises:
        CheckpointError: if a kept state is damaged.
    """
    try:
        files = state.checkpoints.intact_files(state.progress.kept)
    except DamagedError as error:
        raise CheckpointError(f"{error}; rerun the same command: it trains again what was lost") from None
    if files:
        load_weights(files[0], state.learner)
    out.mkdir(parents=True, exist_ok=True)
    save_weights(out / "weights.safetensors", state.learner)
    write_history(out / "history.csv", state.progress.history)
    if files and ensemble:
        (out / "ensemble").mkdir()
        for file in files:
            shutil.copyfile(file, out / "ensemble" / file.name)


def publish_given_weights(out: Path, weights: Path, learner: Learner) -> None:
    """Write given weights as the result, with an empty history.

    Raises:
        CheckpointError: if the file is missing, damaged or does not fit the learner.
    """
    load_foreign_weights(weights, learner)
    save_weights(out / "weights.safetensors", learner)
    write_history(out / "history.csv", [])
