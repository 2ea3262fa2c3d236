"""Outer steps on an NVIDIA GPU, recorded as a CUDA graph and replayed, up to one step ahead of the host.

Launching the thousands of kernels of a step takes the host longer than computing them takes a GPU. Their sequence is
the same in every step of a phase (`Learner.phase`), so its first step is launched kernel by kernel, its second one is
recorded, update of the weights included, and later ones replay it with other inputs: the table of images, the step
number, the learning rate and the seed of the random numbers, all of which the graph reads from the device.

Where the caller allows it, the next step is queued before the host has read this one, so that the GPU does not wait for
the host. If a check of this step failed, neither changes a weight, because the optimiser skips its update on the
device; the host then repeats this step with immediate checks and queues the next one again.
"""

import os
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from fewshot.errors import ResourceError
from fewshot.training.optimizer import Update
from fewshot.training.queued import QueuedGradients

RECORDS = os.environ.get("FEWSHOT_RECORD", "1") != "0"


class RecordedSteps:
    """Takes outer steps.

    Args:
        gradients: of a learner that can be recorded.
        update: of its weights.
        draw: draws the inputs of a step on the host unless that was done.
        begin: sets the seed, the learning rate and the learner's step, which the graph reads from the device.
    """

    def __init__(
        self,
        gradients: QueuedGradients,
        update: Update,
        draw: Callable[[int], None],
        begin: Callable[[int], None],
    ) -> None:
        self.gradients, self.update, self.draw, self.begin = gradients, update, draw, begin
        self.learner, self.inputs = gradients.learner, gradients.inputs
        device = self.inputs.device
        self._failed = torch.zeros((), device=device)  # 1 from a failed check until the step is repeated
        self._report = torch.empty(0)
        self._reports: list[Tensor] = []  # on the host, of even and odd steps
        self._done = [torch.cuda.Event(), torch.cuda.Event()]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._written: list[Tensor | None] = []  # gradients of the parameters, where the recorded step writes them
        self._phase: Hashable = object()
        self._queued: int | None = None

    def take(self, step: int, ahead: bool) -> list[float]:
        """Take a step and wait for it; return loss and accuracy of each chunk.

        Args:
            step: the global outer step.
            ahead: queue the next step before waiting; the learner's state is then that of the next step.

        Raises:
            NumericalError: what the learner's checks find.
            ResourceError: if the step cannot be recorded.
        """
        if self._queued != step:
            self._queue(step)
        if ahead:
            self._queue(step + 1)
        self._done[step % 2].synchronize()
        *values, valid = self._reports[step % 2].tolist()
        if not valid:
            values = self._repeat(step, ahead)
        self.draw(step + 2 if ahead else step + 1)  # while the GPU computes
        return values

    def _queue(self, step: int) -> None:
        """Queue a step: run it, record it or replay it."""
        self.draw(step)
        self.begin(step)
        self.inputs.copy(step)
        phase = self.learner.phase(step)
        if phase != self._phase:
            self._graph, self._written, self._phase = None, [], phase
            self.gradients.clear()
            self._run(step)
        else:
            if self._graph is None:
                self._graph = self._recorded(step)
            self._graph.replay()
        if not self._reports:
            on_gpu = self.inputs.device.type == "cuda"
            self._reports = [torch.empty(self._report.shape, pin_memory=on_gpu) for _ in range(2)]
        self._reports[step % 2].copy_(self._report, non_blocking=True)
        self._done[step % 2].record()
        self._queued = step

    def _run(self, step: int) -> None:
        """Queue the operations of a step."""
        self._report = self.gradients.queue(step, failed_before=self._failed.bool())
        torch.maximum(self._failed, 1 - self._report[-1].float(), out=self._failed)
        self.update.apply(skip=self._failed)

    def _recorded(self, step: int) -> torch.cuda.CUDAGraph:
        """Record the operations of a step, without running them."""
        self.gradients.clear()
        torch.cuda.synchronize(self.inputs.device)
        torch.cuda.empty_cache()  # the recorded step has memory of its own
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._run(step)
        except torch.OutOfMemoryError:
            raise  # explained by the training
        except RuntimeError as error:
            raise ResourceError(
                f"the outer step cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); set "
                "FEWSHOT_RECORD=0 in the environment: the same results from kernels launched one by one"
            ) from error
        self._written = [parameter.grad for parameter in self.learner.parameters()]
        return graph

    def _repeat(self, step: int, ahead: bool) -> list[float]:
        """Take a step again with immediate checks, and queue the next one again."""
        torch.cuda.synchronize(self.inputs.device)
        self._failed.zero_()
        self.begin(step)
        self.inputs.copy(step)
        values = self.gradients.repeat(step)
        self.update.apply()
        if self._graph is not None:
            for parameter, gradient in zip(self.learner.parameters(), self._written, strict=True):
                parameter.grad = gradient
        self._queued = step
        if ahead:
            self._queue(step + 1)
        return values
