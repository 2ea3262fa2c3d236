"""One outer step: draw a meta-batch, sum the gradients over its chunks of episodes, update the weights once."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fewshot.datasets.store import SplitStore
from fewshot.episodes.batch import EpisodeBatch, gather_batch
from fewshot.episodes.draw import EpisodeIndices, draw_episodes
from fewshot.errors import NumericalError
from fewshot.experiments.build import preprocessing, torch_seed
from fewshot.experiments.matrix import Experiment
from fewshot.experiments.params import Recipe
from fewshot.images.resized import at_size
from fewshot.learners.base import Learner
from fewshot.training.device_inputs import DeviceInputs
from fewshot.training.optimizer import Update, build_optimizer
from fewshot.training.parallel import SINGLE_PROCESS, ProcessGroup
from fewshot.training.queued import QueuedGradients


class OuterStep:
    """Takes the outer steps of one training run.

    Args:
        experiment: what is trained.
        split: the training classes.
        learner: on the device of this process; its weights are changed.
        processes: those that share the meta-batch.
    """

    def __init__(
        self, experiment: Experiment, split: SplitStore, learner: Learner, processes: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        self.experiment, self.recipe = experiment, experiment.recipe
        self.split = replace(split, images=at_size(split.images, experiment.image_size))
        self.learner, self.processes = learner, processes
        self.preprocess = preprocessing(experiment)
        self.optimizer = build_optimizer(self.recipe, learner, processes.device)
        self._update = Update(self.optimizer, learner, processes.device)
        self._queued: QueuedGradients | None = None

    def take(self, step: int) -> tuple[float, float]:
        """Take outer step `step` (from 0); return its mean loss and accuracy (0..1) over the meta-batch.

        Raises:
            NumericalError: if a loss is not finite.
        """
        self._seed(step)
        self._update.set_rate(self.recipe.learning_rate * rate_multiplier(self.recipe, step))
        self.learner.train()
        with self.divergence(step):
            values = self._on_cpu(step) if self.processes.device.type == "cpu" else self._on_accelerator(step)
        loss, accuracy = self._weighted_sums(values)
        self.processes.sum_gradients(self.learner)
        loss, accuracy = self.processes.sum(loss, accuracy)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}", step)
        self._update.apply(recorded=self._queued is not None and self._queued.replayed)
        self.processes.average_statistics(self.learner)
        return loss, accuracy

    def _on_cpu(self, step: int) -> list[list[float]]:
        """Compute the gradients of a step; return loss and accuracy of each chunk of episodes."""
        self.optimizer.zero_grad(set_to_none=True)
        batch = training_batch(self.experiment, self.split, step, self._own)
        chunks = (self.preprocess(chunk, training=True) for chunk in batch.chunks(self.episodes_at_once))
        values: list[list[float]] = torch.stack([self._differentiate(chunk, step) for chunk in chunks]).tolist()
        return values

    def _on_accelerator(self, step: int) -> list[list[float]]:
        """Do the same while the device is waited for only once."""
        if self._queued is None:
            self._queued = self._new_queue()
        self._draw(self._queued.inputs, step)
        self._queued.queue(step)
        self._draw(self._queued.inputs, step + 1)  # while the device computes
        return self._queued.read(step, lambda: self._seed(step))

    @property
    def episodes_at_once(self) -> int:
        """Episodes differentiated by one backward pass."""
        return self.recipe.episodes_per_backward or self.learner.episodes_per_backward or len(self._own)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step."""
        return self._update.rate

    def estimate_bytes(self) -> int | None:
        """Return roughly how much memory a step needs, bytes; None if the learner has no estimate."""
        return self.learner.estimate_step_bytes(
            n_shot=self.recipe.n_shot, n_query=self.recipe.n_query, episodes=self.episodes_at_once
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
        """The episodes of a meta-batch that this process computes."""
        return self.processes.share(self.recipe.meta_batch)

    def _seed(self, step: int) -> None:
        """Seed dropout: a step draws the same numbers whenever it is computed."""
        torch.manual_seed(torch_seed(self.experiment, "step", step * self.processes.size + self.processes.rank))

    def _differentiate(self, chunk: EpisodeBatch, step: int) -> Tensor:
        """Add the gradients of some episodes; return their mean loss and accuracy, (2,)."""
        output = self.learner.loss(chunk, step)
        (output.loss * (len(chunk) / self.recipe.meta_batch)).backward()
        return torch.stack([output.loss.detach(), output.accuracy])

    def _weighted_sums(self, values: list[list[float]]) -> tuple[float, float]:
        """Return the share of this process in loss and accuracy of the meta-batch, from those of its chunks."""
        own, at_once = len(self._own), self.episodes_at_once
        weights = [min(at_once, own - start) / self.recipe.meta_batch for start in range(0, own, at_once)]
        loss, accuracy = (
            sum(w * v for w, v in zip(weights, column, strict=True)) for column in zip(*values, strict=True)
        )
        return loss, accuracy

    def _new_queue(self) -> QueuedGradients:
        recipe = self.recipe
        inputs = DeviceInputs(
            self.split,
            self.preprocess,
            self.processes.device,
            episodes=len(self._own),
            n_way=recipe.n_way,
            n_shot=recipe.n_shot,
            n_query=recipe.n_query,
        )
        alone = self.processes.size == 1
        return QueuedGradients(self.learner, inputs, self._differentiate, chunk=self.episodes_at_once, record=alone)

    def _draw(self, inputs: DeviceInputs, step: int) -> None:
        """Draw the episodes of a step on the host unless they are."""
        if not inputs.is_drawn(step):
            inputs.draw(step, training_episodes(self.experiment, self.split, step, self._own))

    def _diverged(self, what: str, steps_done: int) -> NumericalError:
        return NumericalError(
            f"{self.experiment.name}: {what} (after {steps_done} steps, at learning rate {self.learning_rate:g}); "
            f"lower recipes.{self.experiment.recipe_name}.learning_rate"
        )


def training_batch(experiment: Experiment, split: SplitStore, step: int, share: range | None = None) -> EpisodeBatch:
    """Return the episodes of an outer step with their images; arguments as `training_episodes`."""
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
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / (recipe.epochs * recipe.steps_per_epoch)))
    epoch = step // recipe.steps_per_epoch
    reached = [factor for start, factor in recipe.schedule if epoch >= start]
    return reached[-1] if reached else 1.0
