"""Gradients of an outer step on an accelerator: queued without waiting, and on NVIDIA GPUs recorded and replayed.

Launching the thousands of kernels of a step takes the host longer than computing them takes a GPU. Their sequence is
the same in every step, so the second step is recorded as a CUDA graph, which later steps replay with other inputs: the
table of images, the step number and the seed of the random numbers, all of which the graph reads from the device.

What the learner checks during a step (finite losses, solvers that converged) is read together with the loss, once. If a
check failed, the step is repeated with immediate checks, which raise the error or take the solver's fallback; batch
norm's statistics are restored before.
"""

import os
from collections.abc import Callable, Hashable, Iterator

import torch
from torch import Tensor

from fewshot.checks import deferred
from fewshot.episodes.batch import EpisodeBatch
from fewshot.errors import ResourceError
from fewshot.learners.base import Learner
from fewshot.training.device_inputs import DeviceInputs

RECORD = os.environ.get("FEWSHOT_RECORD", "1") != "0"

Differentiate = Callable[[EpisodeBatch, int], Tensor]
"""Adds the gradients of a chunk of episodes at an outer step; returns its loss and accuracy, (2,)."""


class QueuedGradients:
    """Computes the gradients of one outer step after the other.

    Args:
        learner: on an accelerator.
        inputs: the episodes of this process.
        differentiate: see `Differentiate`.
        chunk: episodes differentiated at once.
        record: whether to record and replay the step, if the device and the learner allow it.

    Attributes:
        replayed: whether the last step left its gradients where the recorded step writes them.
    """

    def __init__(
        self, learner: Learner, inputs: DeviceInputs, differentiate: Differentiate, *, chunk: int, record: bool
    ) -> None:
        self.learner, self.inputs, self.differentiate, self.chunk = learner, inputs, differentiate, chunk
        self.recording = record and RECORD and learner.recordable and inputs.device.type == "cuda"
        self._statistics = list(learner.buffers())
        self._before = [value.clone() for value in self._statistics]
        self._report = torch.empty(0)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._gradients: list[Tensor | None] = []  # of the parameters, where the recorded step writes them
        self._phase: Hashable = object()
        self.replayed = False

    def queue(self, step: int) -> None:
        """Queue an outer step whose inputs were drawn, leaving its gradients in the parameters."""
        self.inputs.copy(step)
        self.learner.set_step(step)
        phase = self.learner.phase(step)
        self.replayed = self.recording and phase == self._phase
        if self._graph is not None and phase == self._phase:
            self._restore_gradients()
            self._graph.replay()
        elif self.recording and phase == self._phase:
            self._record(step)
        else:
            self._graph, self._phase = None, phase
            self._clear()
            self._run(step)

    def read(self, step: int, seed: Callable[[], None]) -> list[list[float]]:
        """Wait for the queued step; return loss and accuracy of each chunk.

        Args:
            step: the queued step.
            seed: seeds the random numbers of the step again, in case it must be repeated.

        Raises:
            NumericalError: what the learner's checks find.
        """
        *values, valid = self._report.tolist()
        if not valid:
            self.replayed = False
            _copy(self._before, to=self._statistics)
            seed()
            self._clear()
            values = torch.cat([self.differentiate(batch, step) for batch in self._chunks(step)]).tolist()
        return [values[i : i + 2] for i in range(0, len(values), 2)]

    def _run(self, step: int) -> None:
        """Queue the operations of a step."""
        _copy(self._statistics, to=self._before)
        with deferred() as conditions:
            reported = [self.differentiate(batch, step) for batch in self._chunks(step)]
        valid = torch.stack(conditions).all() if conditions else torch.ones_like(reported[0][0])
        self._report = torch.cat([*reported, valid.to(reported[0]).reshape(1)])

    def _record(self, step: int) -> None:
        """Record the operations of a step and let the device run them."""
        self._clear()
        torch.cuda.synchronize(self.inputs.device)
        torch.cuda.empty_cache()  # the recorded step has memory of its own
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._run(step)
        except RuntimeError as error:
            raise ResourceError(
                f"the outer step cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); set "
                "FEWSHOT_RECORD=0 in the environment: the same results from kernels launched one by one"
            ) from error
        self._graph = graph
        self._gradients = [parameter.grad for parameter in self.learner.parameters()]
        graph.replay()

    def _restore_gradients(self) -> None:
        """Let the parameters hold the recorded step's gradients, also after a step was repeated."""
        for parameter, gradient in zip(self.learner.parameters(), self._gradients, strict=True):
            parameter.grad = gradient

    def _chunks(self, step: int) -> Iterator[EpisodeBatch]:
        return self.inputs.batch(step).chunks(self.chunk)

    def _clear(self) -> None:
        for parameter in self.learner.parameters():
            parameter.grad = None


def _copy(values: list[Tensor], to: list[Tensor]) -> None:
    """Copy tensors, as one operation where the device has one."""
    if values:
        torch._foreach_copy_(to, values)
