"""One outer step: draw a batch, sum the gradients over its chunks, update the weights once."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fewshot.datasets.store import SplitStore
from fewshot.episodes.batch import gather_batch
from fewshot.episodes.draw import draw_episodes
from fewshot.errors import NumericalError
from fewshot.experiments.build import preprocessing, torch_seed
from fewshot.experiments.matrix import Experiment
from fewshot.experiments.params import Recipe
from fewshot.learners.base import Learner
from fewshot.training.minibatches import minibatch
from fewshot.training.parallel import SINGLE_PROCESS, ProcessGroup


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
        self.split, self.learner, self.processes = split, learner, processes
        self.preprocess = preprocessing(experiment)
        self.optimizer = build_optimizer(self.recipe, learner)

    def take(self, step: int) -> tuple[float, float]:
        """Take outer step `step` (from 0); return its mean loss and accuracy (0..1) over the meta-batch.

        Raises:
            NumericalError: if a loss is not finite.
        """
        torch.manual_seed(torch_seed(self.experiment, "step", step * self.processes.size + self.processes.rank))
        self._set_learning_rate(step)
        own = self.processes.share(self.recipe.items_per_step)
        batch = training_batch(self.experiment, self.split, step, own)
        self.learner.train()
        self.optimizer.zero_grad(set_to_none=True)
        weights, reported = [], []
        for chunk in batch.chunks(self.episodes_at_once):
            weight = len(chunk) / self.recipe.items_per_step
            with self.divergence(step):
                output = self.learner.loss(self.preprocess(chunk.to(self.processes.device), training=True), step)
            (output.loss * weight).backward()
            weights.append(weight)
            reported.append(torch.stack([output.loss.detach(), output.accuracy]))
        # Read once, when all chunks have been queued: each read makes the host wait for the device.
        values = torch.stack(reported).tolist()
        loss, accuracy = (
            sum(w * v for w, v in zip(weights, column, strict=True)) for column in zip(*values, strict=True)
        )
        self.processes.sum_gradients(self.learner)
        loss, accuracy = self.processes.sum(loss, accuracy)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}", step)
        self.learner.limit_gradients()
        self.optimizer.step()
        self.processes.average_statistics(self.learner)
        return loss, accuracy

    @property
    def episodes_at_once(self) -> int:
        """Episodes, or images of a minibatch, differentiated by one backward pass."""
        in_this_process = self.recipe.items_per_step // self.processes.size
        return self.recipe.episodes_per_backward or self.learner.episodes_per_backward or in_this_process

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

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

    def _set_learning_rate(self, step: int) -> None:
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.recipe.learning_rate * rate_multiplier(self.recipe, step)

    def _diverged(self, what: str, steps_done: int) -> NumericalError:
        return NumericalError(
            f"{self.experiment.name}: {what} (after {steps_done} steps, at learning rate {self.learning_rate:g}); "
            f"lower recipes.{self.experiment.recipe_name}.learning_rate"
        )


def training_batch(experiment: Experiment, split: SplitStore, step: int, share: range | None = None) -> Any:
    """Return the batch of an outer step: the episodes with index `step * meta_batch + i`, or a minibatch of images.

    Args:
        experiment: what is trained.
        split: the training classes.
        step: from 0.
        share: the i to return; None means all.
    """
    recipe = experiment.recipe
    if recipe.batch_size is not None:
        return minibatch(experiment, split, step, share)
    indices = step * recipe.meta_batch + np.arange(recipe.meta_batch)[slice(None) if share is None else list(share)]
    episodes = draw_episodes(experiment.seed, recipe.train_split, indices, recipe.form, split.class_sizes)
    return gather_batch(split.images, split.class_starts, episodes, recipe.n_shot)


def build_optimizer(recipe: Recipe, learner: Learner) -> torch.optim.Optimizer:
    """Return the outer optimiser over all parameters of a learner."""
    parameters = list(learner.parameters())
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters,
        recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


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
