"""All tasks of a batch at once, for devices on which many small operations wait for each other.

A learner's methods treat one task. Here they are vectorised over tasks by `torch.func.vmap`, so that T tasks need about
as many kernels as one. Autograd is applied outside the vectorised methods (in `inner_loop`): it sees ordinary tensors
with T as their first axis.

Shapes: T tasks; see `inner_loop`.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor
from torch.func import vmap

from fewshot.learners.inner_loop import FastWeights, InnerLoopMethod, Task


class VectorizableMethod(InnerLoopMethod, Protocol):
    """A learner whose methods can be vectorised over tasks: they neither read values nor take gradients."""

    def prepare(self, task: Task) -> Task:
        """Compute once whatever all inner steps of a task share."""

    def query_logits(self, task: Task, fast: FastWeights, inner_step: int) -> Tensor:
        """Return the scores of the query images, (Q, M)."""


class TasksAtOnce:
    """The methods of a learner for T stacked tasks: arguments and results have T as their first axis.

    Args:
        learner: has the methods for one task.
    """

    def __init__(self, learner: VectorizableMethod) -> None:
        self.learner = learner
        self.inner_learning_rate = learner.inner_learning_rate
        self.start_in_second_order = learner.start_in_second_order

    def parameters(self) -> Iterable[Tensor]:
        """Return the parameters that the outer loop trains."""
        return self.learner.parameters()

    def prepare(self, tasks: Task) -> Task:
        """Compute once whatever all inner steps of a task share."""
        return replace(tasks, **_each_task(lambda task: _tensors(self.learner.prepare(task)), tasks))

    def initial_weights(self, tasks: Task) -> FastWeights:
        """Return the weights from which the inner loop starts."""
        return _each_task(self.learner.initial_weights, tasks)

    def moved_at_start(self, fast: FastWeights) -> list[str]:
        """Return the names of the initial weights whose support gradient `move_start` needs."""
        return self.learner.moved_at_start(fast)

    def move_start(self, fast: FastWeights, gradients: FastWeights) -> FastWeights:
        """Return the initial weights after a change that depends on the support gradient."""
        return vmap(self.learner.move_start)(fast, gradients)

    def rescale(self, fast: FastWeights) -> FastWeights:
        """Return the weights at which to compute the next support loss."""
        return vmap(self.learner.rescale)(fast)

    def support_logits(self, tasks: Task, fast: FastWeights, inner_step: int) -> Tensor:
        """Return the scores of the support images, (T, S, M)."""
        return _each_task(lambda task, fast: self.learner.support_logits(task, fast, inner_step), tasks, fast)

    def query_logits(self, tasks: Task, fast: FastWeights, inner_step: int) -> Tensor:
        """Return the scores of the query images, (T, Q, M)."""
        return _each_task(lambda task, fast: self.learner.query_logits(task, fast, inner_step), tasks, fast)

    def update(self, fast: FastWeights, gradients: FastWeights, inner_step: int) -> FastWeights:
        """Return the weights after one step along the gradients."""
        return vmap(lambda fast, gradients: self.learner.update(fast, gradients, inner_step))(fast, gradients)


def _each_task(function: Callable[..., Any], tasks: Task, *stacked: FastWeights) -> Any:
    """Return the stacked results of ``function(task, *fast weights)`` for each task."""

    def of_task(tensors: dict[str, Any], *weights: FastWeights) -> Any:
        return function(replace(tasks, **tensors), *weights)

    return vmap(of_task)(_tensors(tasks), *stacked)


def _tensors(task: Task) -> dict[str, Any]:
    return {name: value for name, value in vars(task).items() if isinstance(value, Tensor)}
