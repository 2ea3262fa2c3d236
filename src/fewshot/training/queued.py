"""Gradients of an outer step on an accelerator, queued without waiting: the device is read once per step.

What the learner checks during a step (finite losses, solvers that converged) is read together with the loss. If a check
failed, the step is repeated with immediate checks, which raise the error or take the solver's fallback; the learner's
buffers, such as batch norm's statistics, are restored before.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fewshot.checks import deferred
from fewshot.episodes.batch import EpisodeBatch
from fewshot.learners.base import Learner
from fewshot.training.device_inputs import DeviceInputs

Differentiate = Callable[[EpisodeBatch, int], Tensor]
"""Adds the gradients of a chunk of episodes at an outer step; returns its loss and accuracy, (2,)."""


class QueuedGradients:
    """Computes the gradients of one outer step after the other.

    Args:
        learner: on an accelerator.
        inputs: the episodes of this process.
        differentiate: see `Differentiate`.
        chunk: episodes differentiated at once.
    """

    def __init__(self, learner: Learner, inputs: DeviceInputs, differentiate: Differentiate, *, chunk: int) -> None:
        self.learner, self.inputs, self.differentiate, self.chunk = learner, inputs, differentiate, chunk
        self._statistics = list(learner.buffers())
        self._before = [value.clone() for value in self._statistics]

    def queue(self, step: int, failed_before: Tensor | None = None) -> Tensor:
        """Queue a step whose inputs are on the device, leaving its gradients in the parameters.

        The learner knows the step already (`Learner.set_step`), which is among what `repeat` restores.

        Args:
            step: the global outer step.
            failed_before: whether an earlier step must be repeated (scalar bool): its statistics are kept then.

        Returns:
            Loss and accuracy of each chunk, and 1 if all checks held, else 0.
        """
        _copy(self._statistics, to=self._before, unless=failed_before)
        with deferred() as conditions:
            reported = [self.differentiate(batch, step) for batch in self._chunks(step)]
        valid = torch.stack([*conditions, *(value[0].isfinite() for value in reported)]).all()
        return torch.cat([*reported, valid.to(reported[0]).reshape(1)])

    def repeat(self, step: int) -> list[float]:
        """Compute a step again from the statistics before it, with immediate checks; return what `queue` returns.

        Raises:
            NumericalError: what the learner's checks find.
        """
        _copy(self._before, to=self._statistics)
        self.clear()
        values: list[float] = torch.cat([self.differentiate(batch, step) for batch in self._chunks(step)]).tolist()
        return values

    def clear(self) -> None:
        """Let the next step write new gradients."""
        for parameter in self.learner.parameters():
            parameter.grad = None

    def _chunks(self, step: int) -> Iterator[EpisodeBatch]:
        return self.inputs.batch(step).chunks(self.chunk)


def pairs(values: list[float]) -> list[list[float]]:
    """Return loss and accuracy of each chunk from all values of a step."""
    return [values[i : i + 2] for i in range(0, len(values), 2)]


def _copy(values: list[Tensor], to: list[Tensor], unless: Tensor | None = None) -> None:
    """Copy tensors unless a condition on the device holds."""
    if not values:
        return
    if unless is not None:
        values = [torch.where(unless, old, new) for old, new in zip(to, values, strict=True)]
    torch._foreach_copy_(to, values)
