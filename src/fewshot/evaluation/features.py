"""Evaluation of a head on given features, without images; episodes are drawn as in the workflow."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot.episodes.draw import class_labels, draw_episodes
from fewshot.episodes.form import EpisodeForm
from fewshot.errors import DataError, NumericalError, quoted
from fewshot.evaluation.interval import mean_ci95
from fewshot.evaluation.scoring import classify_rows


@dataclass(frozen=True, repr=False, eq=False)
class HeadAccuracy:
    """Accuracy of a head; prints as "61.23 ± 0.45 %".

    Attributes:
        accuracies: (episodes,) share of correct predictions in each episode, 0..1.
    """

    accuracies: np.ndarray

    @cached_property
    def accuracy(self) -> float:
        """Mean over the episodes, 0..1."""
        return mean_ci95(self.accuracies)[0]

    @cached_property
    def ci95(self) -> float:
        """Half-width of the 95 % t interval over the episodes, 0..1."""
        return mean_ci95(self.accuracies)[1]

    def __repr__(self) -> str:
        return f"{100 * self.accuracy:.2f} ± {100 * self.ci95:.2f} %"


@torch.no_grad()
def evaluate_head(
    head: nn.Module,
    features: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int] | Sequence[str],
    n_way: int = 5,
    n_shot: int = 1,
    n_query: int = 15,
    episodes: int = 1000,
    seed: int = 0,
) -> HeadAccuracy:
    """Evaluate a head on episodes of given features, such as the test split embedded by any backbone.

    If classes and images are in the same order, the episodes equal those of the workflow's test lists with the same
    seed.

    Args:
        head: called as `head(support, support_labels, query, n_way=M)`, on the device and in the dtype of `features`;
            returns scores (T, Q, M). Switched to evaluation mode for the call.
        features: (N, d) floats.
        labels: (N,) integers or strings, the class of each row; any values, in any order.
        n_way: classes per episode.
        n_shot: support images per class.
        n_query: query images per class.
        episodes: number of episodes.
        seed: seed of the episodes.

    Raises:
        TypeError: if `head` is not a module.
        DataError: if features or labels have the wrong shape or type, the form of the episodes is impossible, or there
            are too few classes or rows per class.
        NumericalError: if a feature or a score is not finite.

    >>> from fewshot.heads import build_head
    >>> labels = torch.arange(8).repeat(30)  # 8 classes of 30 images
    >>> features = torch.nn.functional.one_hot(labels).float()
    >>> evaluate_head(build_head("prototype"), features, labels, episodes=100)
    100.00 ± 0.00 %
    """
    if not isinstance(head, nn.Module):
        raise TypeError(f"head is {quoted(head)}; allowed: a torch module, such as build_head('svm')")
    table, classes = _as_table(features), _as_classes(labels)
    _check(table, classes)
    order = np.argsort(classes, kind="stable")
    sizes = np.unique(classes, return_counts=True)[1]
    form = EpisodeForm(n_way, n_shot, n_query)
    drawn = draw_episodes(seed, "test", np.arange(_count("episodes", episodes)), form, sizes)
    support_at, query_at = (
        torch.from_numpy(order[rows]).to(table.device) for rows in drawn.rows(np.cumsum(sizes) - sizes, n_shot)
    )

    def classify(support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        scores = head(support, support_labels, query, n_way=n_way)
        _check_scores(scores, (*query.shape[:2], n_way))
        return scores

    training = head.training
    head.eval()
    try:
        parts = classify_rows([classify], [table], support_at.unflatten(1, (n_way, n_shot)), query_at, n_shot)
        predictions = np.concatenate([scores.argmax(-1).cpu().numpy() for scores in parts])
    finally:
        head.train(training)
    return HeadAccuracy((predictions == class_labels(n_way, n_query)).mean(axis=1))


def _as_table(features: Any) -> Tensor:
    """Return features as a tensor; arrays that torch cannot view, such as read-only memory maps, are copied."""
    return torch.as_tensor(
        np.require(features, requirements=["C", "W"]) if isinstance(features, np.ndarray) else features
    )


def _as_classes(labels: Any) -> np.ndarray:
    """Return labels as an array of integers or strings."""
    found = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    strings = found.dtype.kind == "O" and all(isinstance(label, str) for label in found.flat)
    return found.astype(str) if strings else found


def _check(features: Tensor, labels: np.ndarray) -> None:
    if features.ndim != 2 or not features.is_floating_point() or features.shape[1] == 0:
        raise DataError(
            f"features have shape {tuple(features.shape)} and dtype {features.dtype}; they must be floats (N, d)"
        )
    if labels.shape != (len(features),) or labels.dtype.kind not in "iuU":
        raise DataError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; they must be integers or strings "
            f"({len(features)},), one per row of the features"
        )


def _count(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or value < 1:
        raise DataError(f"{name} is {quoted(value)}; allowed: an integer, 1 or more")
    return int(value)


def _check_scores(scores: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless a head returned finite scores (T, Q, M); the class of a NaN would count as an answer."""
    if tuple(scores.shape) != shape:
        raise DataError(f"the head returned scores of shape {tuple(scores.shape)}; allowed: {shape}, as (T, Q, M)")
    if not bool(torch.isfinite(scores).all()):
        raise NumericalError("the head returned scores that are not finite; allowed: finite numbers")
