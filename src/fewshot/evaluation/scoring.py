"""Scores of a trained learner on frozen episodes: images are embedded once if possible, then all episodes classified.

Shapes: E episodes in all, T per batch, M ways, S support images, Q query images in all, d features.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewshot.datasets.store import SplitStore
from fewshot.episodes.batch import gather_batch
from fewshot.episodes.draw import EpisodeIndices, class_labels
from fewshot.errors import NumericalError
from fewshot.images.preprocess import Preprocess
from fewshot.learners.base import Learner
from fewshot.progress import Report, unreported

IMAGES_PER_FORWARD = 256
EMBEDDING_BYTES = 2**30  # embeddings held at once on a CPU
LARGEST_SHARE = 0.25  # of an accelerator's free memory, for a table that would otherwise be computed or sent again
CLASSIFY_BYTES = 2**26
ADAPT_EPISODES = 16


@dataclass(frozen=True)
class Scores:
    """Predictions of a learner on a list of episodes at one number of shots.

    Attributes:
        accuracies: (E,) share of correct predictions, 0..1.
        predictions: (E, Q) int64, the most likely class of each query image.
        labels: (Q,) int64, the true classes, the same in every episode.
        confidences: (E, Q) float32, the softmax probability of the predicted class.
        certificates: solver reports, name -> (E,).
    """

    accuracies: np.ndarray
    predictions: np.ndarray
    labels: np.ndarray
    confidences: np.ndarray
    certificates: dict[str, np.ndarray]


@torch.no_grad()
def score_episodes(
    learners: Sequence[Learner],
    split: SplitStore,
    episodes: EpisodeIndices,
    shots: Sequence[int],
    preprocess: Preprocess,
    device: torch.device,
    augmented_support: int | None = None,
    report: Report = unreported,
) -> dict[int, Scores]:
    """Classify the query images of every episode at each number of shots.

    Args:
        learners: one learner, or several whose scores are averaged (an ensemble).
        split: the images.
        episodes: E drawn episodes with at least `max(shots)` support images per class.
        shots: numbers of support images per class.
        preprocess: converts stored images to network input.
        device: where the learners are.
        augmented_support: number of random augmentations of each support image that take its place, from learners that
            cache embeddings; None: the image itself.
        report: told how many images are embedded, and how many episodes are classified.

    Returns:
        Scores by number of shots.

    Raises:
        NumericalError: if a score is nan or +inf; names the episode.
    """
    for learner in learners:
        learner.eval()
        learner.take_certificates()
    models = _Models(learners, split, preprocess, device, augmented_support, report)
    cached = all(learner.caches_embeddings for learner in learners)
    batches = models.classified(episodes, shots) if cached else models.adapted(episodes, shots)
    predictions: dict[int, list[np.ndarray]] = {shot: [] for shot in shots}
    confidences: dict[int, list[np.ndarray]] = {shot: [] for shot in shots}
    certificates: dict[int, list[dict[str, np.ndarray]]] = {shot: [] for shot in shots}
    done, total = 0, len(shots) * len(episodes)
    for shot, logits in batches:
        done += len(logits)
        report("episode", done, total)
        predictions[shot].append(logits.argmax(-1).cpu().numpy())
        confidences[shot].append(logits.softmax(-1).amax(-1).float().cpu().numpy())
        _check_finite(confidences[shot], shot)
        certificates[shot].append(learners[0].take_certificates())
    labels = class_labels(episodes.n_way, episodes.n_query)
    return {
        shot: _scores(np.concatenate(predictions[shot]), labels, np.concatenate(confidences[shot]), certificates[shot])
        for shot in shots
    }


@torch.no_grad()
def embed_rows(
    learner: Learner,
    split: SplitStore,
    rows: np.ndarray,
    preprocess: Preprocess,
    device: torch.device,
    report: Report = unreported,
) -> Tensor:
    """Embed some images of a split, (len(rows), d) float32; report how many are done."""
    parts = []
    for part in _slices(len(rows), IMAGES_PER_FORWARD):
        parts.append(learner.embed(preprocess.images(torch.from_numpy(split.images[rows[part]]).to(device))).float())
        report("image", part.stop, len(rows))
    return torch.cat(parts)


def embedding_bytes(device: torch.device) -> int:
    """Return how many bytes of embeddings to hold at once: with room for a whole split, each image is embedded once."""
    free = free_memory(device)
    return EMBEDDING_BYTES if free is None else max(EMBEDDING_BYTES, int(LARGEST_SHARE * free))


def free_memory(device: torch.device) -> int | None:
    """Return the free memory of a GPU in bytes; None for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


Classify = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(support (T, S, d), labels (T, S), query (T, Q, d), M) -> scores (T, Q, M)."""


def classify_rows(
    classify: Sequence[Classify], features: Sequence[Tensor], support_at: Tensor, query_at: Tensor, n_shot: int
) -> Iterator[Tensor]:
    """Yield the mean scores (T, Q, M) of consecutive episodes given as row numbers in feature tables.

    Args:
        classify: functions whose scores are averaged, one per table.
        features: tables (N, d).
        support_at: (E, M, support images per class) rows of the tables.
        query_at: (E, Q) rows of the tables.
        n_shot: support images per class to use.
    """
    n_way = support_at.shape[1]
    labels = torch.from_numpy(class_labels(n_way, n_shot)).to(support_at.device)
    images_per_episode = n_way * n_shot + query_at.shape[1]
    for part in _slices(len(query_at), max(1, CLASSIFY_BYTES // (4 * features[0].shape[1] * images_per_episode))):
        support = support_at[part, :, :n_shot].flatten(1)
        scores = [
            function(table[support], labels.expand(len(support), -1), table[query_at[part]], n_way)
            for function, table in zip(classify, features, strict=True)
        ]
        yield torch.stack(scores).mean(0)


@dataclass(frozen=True)
class _Models:
    """Learners and the images they classify."""

    learners: Sequence[Learner]
    split: SplitStore
    preprocess: Preprocess
    device: torch.device
    augmented_support: int | None = None
    report: Report = unreported

    def adapted(self, episodes: EpisodeIndices, shots: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield (shot, mean scores (T, Q, M)) from learners that adapt to each episode."""
        for shot in shots:
            for part in _slices(len(episodes), ADAPT_EPISODES):
                raw = gather_batch(self.split.images, self.split.class_starts, episodes.take(part), shot)
                batch = self.preprocess(raw.to(self.device), training=False)
                yield shot, torch.stack([learner.logits(batch) for learner in self.learners]).mean(0)

    def classified(self, episodes: EpisodeIndices, shots: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield (shot, mean scores (T, Q, M)) from embeddings, cached for as many episodes as the limit allows."""
        classify = [learner.classify for learner in self.learners]
        for part in _slices(len(episodes), self._block(episodes)):
            block = episodes.take(part)
            features, support_at, query_at = self._embedded(block, max(shots))
            for shot in shots:
                per_class = shot * (self.augmented_support or 1)
                for scores in classify_rows(classify, features, support_at, query_at, per_class):
                    yield shot, scores

    def _block(self, episodes: EpisodeIndices) -> int:
        """Return the number of episodes whose embeddings are held at once."""
        limit = embedding_bytes(self.device) // (4 * self.learners[0].embedding_size * len(self.learners))
        if self.augmented_support is None and len(self.split) <= limit:
            return len(episodes)
        return max(1, limit // (episodes.images[0].size * (self.augmented_support or 1)))

    def _embedded(self, episodes: EpisodeIndices, n_shot: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """Embed episodes; return each learner's table (N, d), and the support's (E, M, S / M) and queries' rows in it.

        The rows of a class begin with those of its first support image, so that fewer shots are a part of more.
        """
        support_rows, query_rows = episodes.rows(self.split.class_starts, n_shot)
        n_support = 0 if self.augmented_support else support_rows.shape[1]
        rows, inverse = np.unique(
            np.concatenate([support_rows[:, :n_support], query_rows], axis=1), return_inverse=True
        )
        at = torch.from_numpy(inverse.reshape(len(episodes), -1)).to(self.device)
        features = [
            embed_rows(learner, self.split, rows, self.preprocess, self.device, self.report)
            for learner in self.learners
        ]
        if not self.augmented_support:
            return features, at[:, :n_support].unflatten(1, (episodes.n_way, -1)), at[:, n_support:]
        by_shot = support_rows.reshape(len(episodes), episodes.n_way, n_shot).swapaxes(1, 2)
        augmented = np.repeat(by_shot.reshape(len(episodes), -1), self.augmented_support, axis=1)
        features = [
            torch.cat([table, self._embed_augmented(learner, episodes.ids, augmented)])
            for table, learner in zip(features, self.learners, strict=True)
        ]
        places = len(rows) + torch.arange(augmented.size, device=self.device)
        grid = places.view(len(episodes), n_shot, episodes.n_way, self.augmented_support)
        return features, grid.swapaxes(1, 2).flatten(2), at

    def _embed_augmented(self, learner: Learner, ids: np.ndarray, rows: np.ndarray) -> Tensor:
        """Embed a random augmentation of each image (E, n) of the split given for each episode, (E * n, d) float32."""
        parts = []
        for part in _slices(len(rows), max(1, IMAGES_PER_FORWARD // rows.shape[1])):
            stored = torch.from_numpy(self.split.images[rows[part].reshape(-1)]).to(self.device).permute(0, 3, 1, 2)
            by_episode = stored.unflatten(0, (-1, rows.shape[1]))
            images = self.preprocess.episodes(by_episode, "tested support", ids[part], training=True)
            parts.append(learner.embed(images.flatten(0, 1)).float())
            self.report("image", part.stop * rows.shape[1], rows.size)
        return torch.cat(parts)


def _check_finite(confidences: Sequence[np.ndarray], shot: int) -> None:
    """Raise `NumericalError` unless the last confidences, (T, Q), are numbers."""
    wrong = ~np.isfinite(confidences[-1]).all(axis=1)
    if wrong.any():
        episode = sum(map(len, confidences[:-1])) + int(wrong.argmax())
        raise NumericalError(f"the scores of {shot}-shot episode {episode} of the list are not finite")


def _scores(
    predictions: np.ndarray, labels: np.ndarray, confidences: np.ndarray, certificates: list[dict[str, np.ndarray]]
) -> Scores:
    names = certificates[0]
    joined = {name: np.concatenate([part[name] for part in certificates]) for name in names}
    return Scores((predictions == labels).mean(axis=1), predictions, labels, confidences, joined)


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
