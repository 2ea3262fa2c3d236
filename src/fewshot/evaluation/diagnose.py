"""Diagnostics of a learner's adaptation to some episodes of a split."""

import numpy as np
import torch

from fewshot.datasets.store import SplitStore
from fewshot.episodes.batch import gather_batch
from fewshot.episodes.draw import EpisodeIndices
from fewshot.images.preprocess import Preprocess
from fewshot.learners.base import Learner

AT_ONCE = 10


def diagnose_episodes(
    learner: Learner,
    split: SplitStore,
    episodes: EpisodeIndices,
    shot: int,
    preprocess: Preprocess,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Return the arrays of `learners.diagnostics.diagnose_task`, first axis T; {} for learners that do not adapt.

    Args:
        learner: set to evaluation mode.
        split: the images.
        episodes: T drawn episodes.
        shot: support images per class, of those that were drawn.
        preprocess: converts stored images to network input.
        device: where the learner is.
    """
    learner.eval()
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(episodes), AT_ONCE):
        part = episodes.take(slice(start, start + AT_ONCE))
        raw = gather_batch(split.images, split.class_starts, part, shot)
        found = learner.diagnose(preprocess(raw.to(device), training=False))
        if not found:
            return {}
        parts.append(found)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
