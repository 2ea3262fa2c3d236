"""The inner loop, shared by all learners: adapt weights to support sets by gradient steps.

Learners differ in a few methods (`maml.MAML` has the basic versions): `initial_weights`, `move_start`, `rescale`,
`support_logits` and `update`. Each treats one task; `tasks_at_once.TasksAtOnce` has the same methods for all tasks of a
batch. Gradients are taken here, in the same way for both: no task's loss depends on another's fast weights, so the
gradient of the sum of the losses is that of each task.

"Fast weights" are a dictionary name -> tensor of everything the inner loop updates: network weights under their
parameter names, and whatever a method adds (such as CxGrad's context).

Shapes: S support images, Q query images, M ways, C x H x W, K inner steps; for T tasks at once, every tensor of a task,
of its fast weights and of an inner step has T as its first axis.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.checks import holds
from fewshot.episodes.batch import EpisodeBatch
from fewshot.errors import NumericalError
from fewshot.learners.recompute import recomputed

FastWeights = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """One episode of a batch, or several stacked.

    Attributes:
        support_images: (S, C, H, W) float.
        support_labels: (S,) int64.
        query_images: (Q, C, H, W) float.
        query_labels: (Q,) int64.
        episode_ids: the index from which each episode was drawn.
        support_embedding: (S, d), if the method embeds the support set only once.
    """

    support_images: Tensor
    support_labels: Tensor
    query_images: Tensor
    query_labels: Tensor
    episode_ids: list[int]
    support_embedding: Tensor | None = None


def split_tasks(batch: EpisodeBatch) -> Iterator[Task]:
    """Yield the episodes of a batch one by one."""
    for t in range(len(batch)):
        yield Task(
            batch.support_images[t],
            batch.support_labels[t],
            batch.query_images[t],
            batch.query_labels[t],
            [int(batch.episode_ids[t])],
        )


def stacked_tasks(batch: EpisodeBatch) -> Task:
    """Return all episodes of a batch as one task whose tensors have the episodes as their first axis."""
    return Task(
        batch.support_images, batch.support_labels, batch.query_images, batch.query_labels, batch.episode_ids.tolist()
    )


def task_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of a task, a scalar, from (N, M) and (N,); of T tasks from (T, N, M) and (T, N)."""
    if logits.ndim == 2:
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels).mean(1)


@dataclass(frozen=True)
class InnerStep:
    """Result of one inner step.

    Attributes:
        index: from 0.
        loss: support cross-entropy before the update, detached; a scalar, or (T,).
        used: the fast weights at which the loss was computed (after any rescaling).
        gradients: of the loss with respect to `used`.
        updated: the fast weights after the update.
    """

    index: int
    loss: Tensor
    used: FastWeights
    gradients: FastWeights
    updated: FastWeights


class InnerLoopMethod(Protocol):
    """What the inner loop requires of a learner."""

    inner_learning_rate: float
    start_in_second_order: bool

    def parameters(self) -> Iterable[Tensor]:
        """Return the parameters that the outer loop trains."""

    def initial_weights(self, task: Task) -> FastWeights:
        """Return the weights from which the inner loop starts."""

    def moved_at_start(self, fast: FastWeights) -> list[str]:
        """Return the names of the initial weights whose support gradient `move_start` needs; none: it is not called."""

    def move_start(self, fast: FastWeights, gradients: FastWeights) -> FastWeights:
        """Return the initial weights after a change that depends on the support gradient."""

    def rescale(self, fast: FastWeights) -> FastWeights:
        """Return the weights at which to compute the next support loss."""

    def support_logits(self, task: Task, fast: FastWeights, inner_step: int) -> Tensor:
        """Return the scores of the support images, (S, M)."""

    def update(self, fast: FastWeights, gradients: FastWeights, inner_step: int) -> FastWeights:
        """Return the weights after one step along the gradients."""


def adapt(
    method: InnerLoopMethod, task: Task, n_steps: int, *, second_order: bool = False, recompute: bool = False
) -> Iterator[InnerStep]:
    """Yield the inner steps of one task, with a graph from the fast weights back to the learner's parameters.

    Args:
        method: the learner.
        task: the task whose support set to fit.
        n_steps: K.
        second_order: extend the graph through the inner gradients.
        recompute: in second order, do not store the activations of inner steps but recompute them in the outer backward
            pass.

    Raises:
        NumericalError: if a support loss is not finite.
    """
    fast = starting_weights(method, task, second_order)
    for index in range(n_steps):
        if second_order and recompute:
            step = _recomputed_step(method, task, fast, index)
        else:
            step = _inner_step(method, task, fast, index, second_order)
        fast = step.updated
        yield step


def adapt_detached(method: InnerLoopMethod, task: Task, n_steps: int) -> Iterator[InnerStep]:
    """Yield first-order steps without a graph between them, for evaluation; memory does not grow with their number.

    Raises:
        NumericalError: if a support loss is not finite.
    """
    with torch.enable_grad():
        fast = leaves(starting_weights(method, task))
    for index in range(n_steps):
        with torch.enable_grad():
            step = _inner_step(method, task, fast, index, second_order=False)
        fast = leaves(step.updated)
        yield step


def starting_weights(method: InnerLoopMethod, task: Task, second_order: bool = False) -> FastWeights:
    """Return the weights before the first inner step; all require a gradient.

    Args:
        method: the learner.
        task: the task to adapt to.
        second_order: keep the graph of the gradient that `move_start` needs, if the method wants it.
    """
    fast = _requiring_gradient(method.initial_weights(task))
    names = method.moved_at_start(fast)
    if not names:
        return fast
    losses = task_losses(method.support_logits(task, method.rescale(fast), 0), task.support_labels)
    with_graph = second_order and method.start_in_second_order
    gradients = torch.autograd.grad(losses.sum(), [fast[name] for name in names], create_graph=with_graph)
    return _requiring_gradient(method.move_start(fast, dict(zip(names, gradients, strict=True))))


def _requiring_gradient(fast: FastWeights) -> FastWeights:
    return {name: weight if weight.requires_grad else weight.requires_grad_() for name, weight in fast.items()}


def leaves(fast: FastWeights) -> FastWeights:
    """Return the same values as leaf tensors that require gradients."""
    return {name: weight.detach().requires_grad_() for name, weight in fast.items()}


def _inner_step(method: InnerLoopMethod, task: Task, fast: FastWeights, index: int, second_order: bool) -> InnerStep:
    used = method.rescale(fast)
    losses = task_losses(method.support_logits(task, used, index), task.support_labels)
    _check_finite(losses, task, index, method.inner_learning_rate)
    # The graph is retained because rescaling may share part of it with the outer loss.
    grads = torch.autograd.grad(losses.sum(), list(used.values()), create_graph=second_order, retain_graph=True)
    gradients = dict(zip(used, grads, strict=True))
    return InnerStep(index, losses.detach(), used, gradients, method.update(used, gradients, index))


def _recomputed_step(method: InnerLoopMethod, task: Task, fast: FastWeights, index: int) -> InnerStep:
    """Return the second-order inner step; only its updated weights carry a graph."""
    steps = []

    def updated_weights(weights: list[Tensor], with_graph: bool) -> list[Tensor]:
        step = _inner_step(method, task, dict(zip(fast, weights, strict=True)), index, second_order=with_graph)
        if not with_graph:
            steps.append(step)
        return list(step.updated.values())

    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    updated = recomputed(updated_weights, list(fast.values()), parameters)
    first = steps[0]
    return replace(
        first,
        used=_detached(first.used),
        gradients=_detached(first.gradients),
        updated=dict(zip(first.updated, updated, strict=True)),
    )


def _detached(fast: FastWeights) -> FastWeights:
    return {name: weight.detach() for name, weight in fast.items()}


def _check_finite(losses: Tensor, task: Task, index: int, learning_rate: float) -> None:
    if holds(losses.isfinite()):
        return
    for loss, episode in zip(losses.reshape(-1).tolist(), task.episode_ids, strict=True):
        if not math.isfinite(loss):
            raise NumericalError(
                f"the support loss is {loss} in episode {episode} at inner step {index} "
                f"(inner_learning_rate {learning_rate:g}); lower inner_learning_rate or the outer learning_rate"
            )
