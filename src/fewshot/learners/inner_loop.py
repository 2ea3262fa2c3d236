"""The inner loop, shared by all learners: adapt weights to the support set of one task by gradient steps.

Learners differ in four methods (`maml.MAML` has the basic versions): `initial_weights`, `rescale`, `support_logits` and
`update`.

"Fast weights" are a dictionary name -> tensor of everything the inner loop updates: network weights under their
parameter names, and whatever a method adds (such as CxGrad's context).

Shapes: S support images, Q query images, M ways, C x H x W, K inner steps.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.episodes.batch import EpisodeBatch
from fewshot.errors import NumericalError
from fewshot.learners.recompute import recomputed

FastWeights = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """One episode of a batch.

    Attributes:
        support_images: (S, C, H, W) float.
        support_labels: (S,) int64.
        query_images: (Q, C, H, W) float.
        query_labels: (Q,) int64.
        episode_id: the index from which the episode was drawn.
        support_embedding: (S, d), if the method embeds the support set only once.
    """

    support_images: Tensor
    support_labels: Tensor
    query_images: Tensor
    query_labels: Tensor
    episode_id: int
    support_embedding: Tensor | None = None


def split_tasks(batch: EpisodeBatch) -> Iterator[Task]:
    """Yield the episodes of a batch one by one."""
    for t in range(len(batch)):
        yield Task(
            batch.support_images[t],
            batch.support_labels[t],
            batch.query_images[t],
            batch.query_labels[t],
            int(batch.episode_ids[t]),
        )


@dataclass(frozen=True)
class InnerStep:
    """Result of one inner step.

    Attributes:
        index: from 0.
        loss: support cross-entropy before the update, detached scalar.
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

    def parameters(self) -> Iterable[Tensor]:
        """Return the parameters that the outer loop trains."""

    def initial_weights(self, task: Task, second_order: bool = False) -> FastWeights:
        """Return the weights from which the inner loop starts; `second_order` keeps the graph of their gradients."""

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
    fast = method.initial_weights(task, second_order)
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
        fast = leaves(method.initial_weights(task))
    for index in range(n_steps):
        with torch.enable_grad():
            step = _inner_step(method, task, fast, index, second_order=False)
        fast = leaves(step.updated)
        yield step


def leaves(fast: FastWeights) -> FastWeights:
    """Return the same values as leaf tensors that require gradients."""
    return {name: weight.detach().requires_grad_() for name, weight in fast.items()}


def _inner_step(method: InnerLoopMethod, task: Task, fast: FastWeights, index: int, second_order: bool) -> InnerStep:
    used = method.rescale(fast)
    loss = F.cross_entropy(method.support_logits(task, used, index), task.support_labels)
    _check_finite(loss, task, index, method.inner_learning_rate)
    # The graph is retained because rescaling may share part of it with the outer loss.
    grads = torch.autograd.grad(loss, list(used.values()), create_graph=second_order, retain_graph=True)
    gradients = dict(zip(used, grads, strict=True))
    return InnerStep(index, loss.detach(), used, gradients, method.update(used, gradients, index))


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


def _check_finite(loss: Tensor, task: Task, index: int, learning_rate: float) -> None:
    if not loss.isfinite():
        raise NumericalError(
            f"the support loss is {loss.item()} in episode {task.episode_id} at inner step {index} "
            f"(inner_learning_rate {learning_rate:g}); lower inner_learning_rate or the outer learning_rate"
        )
