"""Diagnostics of adaptation, for figures: gradient norms, accuracy by inner step, change of features.

Shapes: K inner steps, L layers (the stages of the backbone, then the head), Q query images in all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fewshot.learners.inner_loop import FastWeights, InnerLoopMethod, InnerStep, Task, adapt_detached, starting_weights


class DiagnosableMethod(InnerLoopMethod, Protocol):
    """What the diagnostics require of a learner."""

    def prepare(self, task: Task) -> Task:
        """Compute once whatever all inner steps of a task share."""

    def stages(self) -> dict[str, nn.Module]:
        """Return the stages of the backbone: prefix of their parameters' names -> stage."""

    def query_logits(self, task: Task, fast: FastWeights, inner_step: int) -> Tensor:
        """Return the scores of the query images, (Q, M)."""

    def diagnose_step(self, step: InnerStep) -> dict[str, np.ndarray]:
        """Return additional arrays for an inner step."""


def diagnose_task(learner: DiagnosableMethod, task: Task, n_steps: int) -> dict[str, np.ndarray]:
    """Return arrays describing the adaptation to one task.

    Args:
        learner: the learner that adapts.
        task: the episode.
        n_steps: K.

    Returns:
        `gradient_norm` (K, L): Euclidean norm of the support loss's gradient, NaN where a layer is not adapted.
        `support_loss` (K,): before each update.
        `query_accuracy` (K + 1,): before adaptation and after each step.
        `feature_similarity` (L - 1,): linear CKA of each stage's query features before and after adaptation.
        Plus whatever the learner adds for each step, (K, ...).
    """
    with torch.no_grad():
        task = learner.prepare(task)
    with torch.enable_grad():
        start = starting_weights(learner, task)
    with torch.no_grad():
        before, first_logits = _stage_features(learner, task, start, 0)
    accuracies = [_accuracy(first_logits, task)]
    rows: dict[str, list[np.ndarray]] = {}
    for step in adapt_detached(learner, task, n_steps):
        with torch.no_grad():
            after, logits = _stage_features(learner, task, step.updated, step.index)
            found = {
                "gradient_norm": np.array(_gradient_norms(learner, step)),
                "support_loss": step.loss.cpu().numpy(),
                **learner.diagnose_step(step),
            }
        accuracies.append(_accuracy(logits, task))
        for name, row in found.items():
            rows.setdefault(name, []).append(row)
    similarity = [linear_cka(x, y) for x, y in zip(before, after, strict=True)]
    return {
        **{name: np.stack(values) for name, values in rows.items()},
        "query_accuracy": np.array(accuracies),
        "feature_similarity": np.array(similarity),
    }


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment of two sets of features (Q, d1), (Q, d2): 1 if equal up to rotation.

    NaN if either is constant. Source: Kornblith et al., ICML 2019, equation (3) in its kernel form.
    """
    gram_x, gram_y = (_centred_gram(features.double()) for features in (x, y))
    return float((gram_x * gram_y).sum() / (gram_x.norm() * gram_y.norm()))


def _centred_gram(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred @ centred.T


def _accuracy(logits: Tensor, task: Task) -> float:
    return float((logits.argmax(1) == task.query_labels).float().mean())


def _gradient_norms(learner: DiagnosableMethod, step: InnerStep) -> list[float]:
    """Return the gradient norm of each layer, (L,)."""
    norms = []
    for layer in [*learner.stages(), "head."]:
        parts = [gradient.norm() for name, gradient in step.gradients.items() if name.startswith(layer)]
        norms.append(float(torch.stack(parts).norm()) if parts else float("nan"))
    return norms


def _stage_features(
    learner: DiagnosableMethod, task: Task, fast: FastWeights, inner_step: int
) -> tuple[list[Tensor], Tensor]:
    """Return the query features of each stage, flattened (Q, d), and the query scores."""
    with _recorded_stages(learner) as maps:
        logits = learner.query_logits(task, fast, inner_step)
    return [stage[-len(task.query_labels) :].flatten(1) for stage in maps], logits


@contextmanager
def _recorded_stages(learner: DiagnosableMethod) -> Iterator[list[Tensor]]:
    maps: list[Tensor] = []
    hooks = [
        stage.register_forward_hook(lambda module, inputs, output: maps.append(output))
        for stage in learner.stages().values()
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
