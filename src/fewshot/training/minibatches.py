"""The batches of learners that are trained on labelled images, and the facts these learners need."""

import numpy as np
import torch

from fewshot.datasets.store import SplitStore
from fewshot.episodes.minibatch import ImageBatch, draw_images, gather_images
from fewshot.errors import DataError
from fewshot.evaluation.scoring import embed_rows
from fewshot.experiments.experiment import Experiment
from fewshot.images.preprocess import Preprocess
from fewshot.learners.base import Learner

IMAGES_PER_CLASS = 50


def minibatch(experiment: Experiment, split: SplitStore, step: int, share: range | None = None) -> ImageBatch:
    """Return the labelled images of an outer step; arguments as for `minibatch_rows`."""
    rows, positions = minibatch_rows(experiment, split, step, share)
    return gather_images(split.images, split.labels, rows, positions)


def minibatch_rows(
    experiment: Experiment, split: SplitStore, step: int, share: range | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the images of an outer step: those at positions `step * batch_size + i` of the sequence of passes.

    Args:
        experiment: what is trained; its recipe has a `batch_size`.
        split: the training classes.
        step: from 0.
        share: the i to return; None means all.

    Returns:
        The rows of the split and the positions, each (B,) int64.
    """
    size = experiment.recipe.items_per_step
    positions = step * size + np.arange(size)[slice(None) if share is None else list(share)]
    return draw_images(experiment.seed, experiment.recipe.train_split, positions, len(split)), positions


def check_classes(experiment: Experiment, split: SplitStore) -> None:
    """Refuse a split with another number of classes than the learner distinguishes.

    Raises:
        DataError: naming both numbers and the setting to change.
    """
    if experiment.recipe.batch_size is None:
        return
    found, wanted = len(split.class_sizes), experiment.n_classes
    if found != wanted:
        raise DataError(
            f"{experiment.name}: learner {experiment.learner.label!r} distinguishes {wanted} classes, but split "
            f"{split.name!r} of {experiment.dataset.label} has {found}; set learner.n_classes: {found}"
        )


def tell_feature_mean(learner: Learner, split: SplitStore, preprocess: Preprocess, device: torch.device) -> None:
    """Give a learner that centres features the mean embedding of the first 50 images of each training class.

    Args:
        learner: on the device; it is left in evaluation mode.
        split: the training classes.
        preprocess: of the experiment's images; these are not augmented.
        device: where to compute.
    """
    if not learner.centres_features:
        return
    counts = np.minimum(split.class_sizes, IMAGES_PER_CLASS)
    rows = np.concatenate([start + np.arange(n) for start, n in zip(split.class_starts, counts, strict=True)])
    embeddings = embed_rows(learner.eval(), split, rows, preprocess, device)
    class_means = [part.mean(0) for part in embeddings.split(counts.tolist())]
    learner.set_feature_mean(torch.stack(class_means).mean(0))
