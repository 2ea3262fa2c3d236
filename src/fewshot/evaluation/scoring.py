"""Scores of a trained learner on frozen episodes: each image is embedded once, then all episodes are classified.

Shapes: E episodes in all, T in a batch, M ways, S support images, Q query images in all, d features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from fewshot.datasets.store import SplitStore
from fewshot.episodes.batch import gather_batch
from fewshot.episodes.draw import EpisodeIndices, class_labels
from fewshot.images.preprocess import Preprocess
from fewshot.learners.base import Learner

IMAGES_PER_FORWARD = 256
EMBEDDING_BYTES = 2**30
CLASSIFY_BYTES = 2**26
ADAPT_EPISODES = 16


@dataclass(frozen=True)
class Scores:
    """What a learner answered in a list of episodes at one shot.

    Attributes:
        accuracies: (E,) share of right answers, 0..1.
        predictions: (E, Q) int64, the most likely class of each query image.
        labels: (Q,) int64, the true classes, the same in every episode.
        certificates: what solvers reported, name -> (E,).
    """

    accuracies: np.ndarray
    predictions: np.ndarray
    labels: np.ndarray
    certificates: dict[str, np.ndarray]


@torch.no_grad()
def score_episodes(
    learners: Sequence[Learner],
    split: SplitStore,
    episodes: EpisodeIndices,
    shots: Sequence[int],
    preprocess: Preprocess,
    device: torch.device,
) -> dict[int, Scores]:
    """Classify the query images of every episode, at each shot.

    Args:
        learners: one learner, or several whose scores are averaged (an ensemble).
        split: the images.
        episodes: E drawn episodes with at least `max(shots)` support images a class.
        shots: numbers of support images a class.
        preprocess: from stored to network images.
        device: where the learners are.

    Returns:
        Scores by shot.
    """
    for learner in learners:
        learner.eval()
        learner.take_certificates()
    caches = all(learner.caches_embeddings for learner in learners)
    logits_of = _classified if caches else _adapted
    labels = class_labels(episodes.classes.shape[1], episodes.n_query)
    found: dict[int, list[np.ndarray]] = {shot: [] for shot in shots}
    certificates: dict[int, list[dict[str, np.ndarray]]] = {shot: [] for shot in shots}
    for shot, logits in logits_of(learners, split, episodes, shots, preprocess, device):
        found[shot].append(logits.argmax(-1).cpu().numpy())
        certificates[shot].append(learners[0].take_certificates())
    return {shot: _scores(np.concatenate(found[shot]), labels, certificates[shot]) for shot in shots}


def _scores(predictions: np.ndarray, labels: np.ndarray, certificates: list[dict[str, np.ndarray]]) -> Scores:
    names = certificates[0]
    joined = {name: np.concatenate([part[name] for part in certificates]) for name in names}
    return Scores((predictions == labels).mean(axis=1), predictions, labels, joined)


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _adapted(
    learners: Sequence[Learner],
    split: SplitStore,
    episodes: EpisodeIndices,
    shots: Sequence[int],
    preprocess: Preprocess,
    device: torch.device,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (shot, mean scores (T, Q, M)) of learners that adapt to each episode."""
    for shot in shots:
        for part in _slices(len(episodes.ids), ADAPT_EPISODES):
            raw = gather_batch(split.images, split.class_starts, episodes.take(part), shot)
            batch = preprocess(raw.to(device), training=False)
            yield shot, torch.stack([learner.logits(batch) for learner in learners]).mean(0)


def _classified(
    learners: Sequence[Learner],
    split: SplitStore,
    episodes: EpisodeIndices,
    shots: Sequence[int],
    preprocess: Preprocess,
    device: torch.device,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (shot, mean scores (T, Q, M)) from embeddings made once an image (per block that fits in memory)."""
    n_way, width = episodes.classes.shape[1], learners[0].embedding_size * 4
    embedding_limit = EMBEDDING_BYTES // (width * len(learners))
    block = max(1, embedding_limit // episodes.images[0].size)
    for part in _slices(len(episodes.ids), len(episodes.ids) if len(split) <= embedding_limit else block):
        episodes_part = episodes.take(part)
        support_rows, query_rows = episodes_part.rows(split.class_starts, max(shots))
        rows, inverse = np.unique(np.concatenate([support_rows, query_rows], axis=1), return_inverse=True)
        where = torch.from_numpy(inverse.reshape(len(support_rows), -1)).to(device)
        tables = [embed_rows(learner, split, rows, preprocess, device) for learner in learners]
        support_at = where[:, : support_rows.shape[1]].unflatten(1, (n_way, -1))
        query_at = where[:, support_rows.shape[1] :]
        for shot in shots:
            labels = torch.from_numpy(class_labels(n_way, shot)).to(device)
            batch = max(1, CLASSIFY_BYTES // (width * n_way * (shot + episodes.n_query)))
            for small in _slices(len(query_at), batch):
                support = support_at[small, :, :shot].flatten(1)
                yield (
                    shot,
                    torch.stack(
                        [
                            learner.classify(
                                table[support], labels.expand(len(support), -1), table[query_at[small]], n_way
                            )
                            for learner, table in zip(learners, tables, strict=True)
                        ]
                    ).mean(0),
                )


@torch.no_grad()
def embed_rows(
    learner: Learner, split: SplitStore, rows: np.ndarray, preprocess: Preprocess, device: torch.device
) -> Tensor:
    """Embed some images of a split, (len(rows), d) float32."""
    parts = [
        learner.embed(preprocess.images(torch.from_numpy(split.images[rows[part]]).to(device))).float()
        for part in _slices(len(rows), IMAGES_PER_FORWARD)
    ]
    return torch.cat(parts)


def mean_ci95(accuracies: np.ndarray) -> tuple[float, float]:
    """Return the mean of per-episode accuracies and the half width of its 95 % t interval over episodes."""
    n = len(accuracies)
    half_width = special.stdtrit(n - 1, 0.975) * accuracies.std(ddof=1) / np.sqrt(n) if n > 1 else np.inf
    return float(accuracies.mean()), float(half_width)
