"""One outer step: draw a batch, sum the gradients over its chunks, update the weights once."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot.datasets.store import SplitStore
from fewshot.episodes.batch import EpisodeBatch, gather_batch
from fewshot.episodes.draw import EpisodeIndices, draw_episodes
from fewshot.errors import NumericalError
from fewshot.experiments.build import preprocessing, torch_seed
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.params import Recipe
from fewshot.images.resized import at_size
from fewshot.learners.base import Learner
from fewshot.training.device_inputs import EpisodeInputs, MinibatchInputs
from fewshot.training.minibatches import minibatch, minibatch_rows
from fewshot.training.optimizer import Update, build_optimizer
from fewshot.training.parallel import SINGLE_PROCESS, ProcessGroup
from fewshot.training.queued import QueuedGradients, pairs
from fewshot.training.recorded import RECORDS, RecordedSteps


class OuterStep:
    """Takes the outer steps of one training run.

    Args:
        experiment: what is trained.
        split: the training classes.
        learner: on the device of this process; its weights are changed.
        processes: those that share the meta-batch.

    Attributes:
        split: the training classes, their images of the size that the backbone needs.
        preprocess: of the experiment's images.
        optimizer: of the learner.
        learning_rate: of the last step.
        is_ahead: whether the learner's state is already that of the step after the last one.
    """

    def __init__(
        self, experiment: Experiment, split: SplitStore, learner: Learner, processes: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        self.experiment, self.recipe = experiment, experiment.recipe
        self.split = replace(split, images=at_size(split.images, experiment.image_size))
        self.learner, self.processes = learner, processes
        self.preprocess = preprocessing(experiment)
        self.optimizer = build_optimizer(self.recipe, learner, processes.device)
        self.learning_rate, self.is_ahead = self.recipe.learning_rate, False
        self._update = Update(self.optimizer, learner, processes.device)

    def take(self, step: int, *, ahead: bool = False) -> tuple[float, float]:
        """Take outer step `step` (from 0); return its mean loss and accuracy (0..1).

        Args:
            step: the global outer step.
            ahead: the next call will be for the next step, and until then nobody needs the learner's state; a GPU
                may then compute the next step already.

        Raises:
            NumericalError: if a loss is not finite.
            ResourceError: if the step cannot be recorded on a GPU.
        """
        self.learner.train()
        self.learning_rate = self._rate(step)
        if self._records:
            return self._on_recording_gpu(step, ahead)
        self._begin(step)
        with self.divergence(step):
            values = self._on_accelerator(step) if self._queues else self._from_host(step)
        loss, accuracy = self._weighted_sums(values)
        self.processes.sum_gradients(self.learner)
        loss, accuracy = self.processes.sum(loss, accuracy)
        self._check_finite(loss, step)
        self._update.apply()
        self.processes.average_statistics(self.learner)
        return loss, accuracy

    def _from_host(self, step: int) -> list[list[float]]:
        """Compute the gradients of a step from a batch gathered on the host; return each chunk's loss and accuracy."""
        self.optimizer.zero_grad(set_to_none=True)
        batch = training_batch(self.experiment, self.split, step, self._own)
        device = self.processes.device
        chunks = (self.preprocess(chunk.to(device), training=True) for chunk in batch.chunks(self.episodes_at_once))
        values: list[list[float]] = torch.stack([self._differentiate(chunk, step) for chunk in chunks]).tolist()
        return values

    def _on_accelerator(self, step: int) -> list[list[float]]:
        """Compute the same from inputs sent ahead, waiting for the device only once."""
        queued = self._gradients
        self._draw(step)
        queued.inputs.copy(step)
        queued.clear()
        report = queued.queue(step)
        self._draw(step + 1)  # while the device computes
        *values, valid = report.tolist()
        if not valid:
            self._begin(step)
            values = queued.repeat(step)
        return pairs(values)

    def _on_recording_gpu(self, step: int, ahead: bool) -> tuple[float, float]:
        """Take the whole step, update included, and the next one too if `ahead`."""
        self.is_ahead = ahead
        with self.divergence(step):
            values = self._recorded.take(step, ahead)
        loss, accuracy = self._weighted_sums(pairs(values))
        self._check_finite(loss, step)
        return loss, accuracy

    @property
    def episodes_at_once(self) -> int:
        """Episodes, or images of a minibatch, differentiated by one backward pass."""
        return self.recipe.episodes_per_backward or self.learner.episodes_per_backward or len(self._own)

    def estimate_bytes(self) -> int | None:
        """Return roughly how much memory a step needs, bytes; None if the learner has no estimate."""
        episodes = min(self.episodes_at_once, len(self._own))
        return self.learner.estimate_step_bytes(
            n_shot=self.recipe.n_shot, n_query=self.recipe.n_query, episodes=episodes
        )

    def check_weights(self, steps_done: int) -> None:
        """Refuse weights that the last step made non-finite: its loss was computed before the update.

        Raises:
            NumericalError: if a parameter or buffer is not finite.
        """
        for name, value in self.learner.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise self._diverged(f"{name} is not finite", steps_done)

    @contextmanager
    def divergence(self, steps_done: int) -> Iterator[None]:
        """Add the usual cause to errors about non-finite values."""
        try:
            yield
        except NumericalError as error:
            raise self._diverged(str(error), steps_done) from None

    @property
    def _own(self) -> range:
        """The episodes of a meta-batch, or the images of a minibatch, that this process computes."""
        return self.processes.share(self.recipe.items_per_step)

    @property
    def _queues(self) -> bool:
        """Whether the inputs of a step are sent ahead and its results read once: on an accelerator."""
        return self.processes.device.type != "cpu"

    @property
    def _records(self) -> bool:
        """Whether steps are recorded and replayed: by a single process on an NVIDIA GPU, if the learner allows it."""
        on_gpu = self._queues and self.processes.device.type == "cuda"
        return on_gpu and self.processes.size == 1 and RECORDS and self.learner.recordable

    def _begin(self, step: int) -> None:
        """Tell the learner the step, set its rate, and seed dropout: a step draws the same whenever it is computed."""
        torch.manual_seed(torch_seed(self.experiment, "step", step * self.processes.size + self.processes.rank))
        self.learner.set_step(step)
        self._update.set_rate(self._rate(step))

    def _differentiate(self, chunk: EpisodeBatch, step: int) -> Tensor:
        """Add the gradients of some episodes; return their mean loss and accuracy, (2,)."""
        output = self.learner.loss(chunk, step)
        (output.loss * (len(chunk) / self.recipe.items_per_step)).backward()
        return torch.stack([output.loss.detach(), output.accuracy])

    def _weighted_sums(self, values: list[list[float]]) -> tuple[float, float]:
        """Return the share of this process in loss and accuracy of the meta-batch, from those of its chunks."""
        own, at_once = len(self._own), self.episodes_at_once
        weights = [min(at_once, own - start) / self.recipe.items_per_step for start in range(0, own, at_once)]
        loss, accuracy = (
            sum(w * v for w, v in zip(weights, column, strict=True)) for column in zip(*values, strict=True)
        )
        return loss, accuracy

    @cached_property
    def _inputs(self) -> EpisodeInputs | MinibatchInputs:
        own, device, recipe = len(self._own), self.processes.device, self.recipe
        if recipe.batch_size is not None:
            return MinibatchInputs(self.split, self.preprocess, device, own)
        form = {"n_way": recipe.n_way, "n_shot": recipe.n_shot, "n_query": recipe.n_query}
        return EpisodeInputs(self.split, self.preprocess, device, episodes=own, **form)

    @cached_property
    def _gradients(self) -> QueuedGradients:
        return QueuedGradients(self.learner, self._inputs, self._differentiate, chunk=self.episodes_at_once)

    @cached_property
    def _recorded(self) -> RecordedSteps:
        return RecordedSteps(self._gradients, self._update, self._draw, self._begin)

    def _draw(self, step: int) -> None:
        """Draw the images of a step on the host unless that was done."""
        inputs = self._inputs
        if inputs.is_drawn(step):
            return
        if isinstance(inputs, MinibatchInputs):
            inputs.draw(step, *minibatch_rows(self.experiment, self.split, step, self._own))
        else:
            inputs.draw(step, training_episodes(self.experiment, self.split, step, self._own))

    def _check_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}", step)

    def _rate(self, step: int) -> float:
        return self.recipe.learning_rate * rate_multiplier(self.recipe, step)

    def _diverged(self, what: str, steps_done: int) -> NumericalError:
        return NumericalError(
            f"{self.experiment.name}: {what} (after {steps_done} steps, at learning rate {self.learning_rate:g}); "
            f"lower recipes.{self.experiment.recipe_name}.learning_rate"
        )


def training_batch(experiment: Experiment, split: SplitStore, step: int, share: range | None = None) -> Any:
    """Return the batch of an outer step: its episodes with their images, or a minibatch; arguments as below."""
    if experiment.recipe.batch_size is not None:
        return minibatch(experiment, split, step, share)
    episodes = training_episodes(experiment, split, step, share)
    return gather_batch(split.images, split.class_starts, episodes, experiment.recipe.n_shot)


def training_episodes(
    experiment: Experiment, split: SplitStore, step: int, share: range | None = None
) -> EpisodeIndices:
    """Return the episodes of an outer step: those with index `step * meta_batch + i`.

    Args:
        experiment: what is trained.
        split: the training classes.
        step: from 0.
        share: the i to return; None means all.
    """
    recipe = experiment.recipe
    indices = step * recipe.meta_batch + np.arange(recipe.meta_batch)[slice(None) if share is None else list(share)]
    return draw_episodes(experiment.seed, recipe.train_split, indices, recipe.form, split.class_sizes)


def rate_multiplier(recipe: Recipe, step: int) -> float:
    """Return the factor of the learning rate at an outer step (from 0)."""
    steps = recipe.epochs * recipe.steps_per_epoch
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    if recipe.schedule == "one_cycle":
        return one_cycle(step, steps)
    epoch = step // recipe.steps_per_epoch
    reached = [factor for start, factor in recipe.schedule if epoch >= start]
    return reached[-1] if reached else 1.0


def one_cycle(step: int, steps: int) -> float:
    """Return the multiplier at a step (from 0): along cosines from 1/25 up to 1 in 30 % of the steps, then to 4e-6.

    Source: Smith and Topin 2019, with the defaults of torch's OneCycleLR; the momentum is constant.
    """
    first, turn, last = 1 / 25, 0.3 * steps - 1, steps - 1
    if step < turn:
        start, end, share = first, 1.0, step / turn
    else:
        start, end, share = 1.0, first / 1e4, (step - turn) / (last - turn)
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
