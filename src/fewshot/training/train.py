"""Stage train: episodes -> learner. The loop knows no learner by name.

A run is a pure function of its settings and the data: episodes, augmentation and dropout are drawn from
(seed, step), so a run that was stopped anywhere and went on ends with the same bytes as one that never stopped.
"""

import csv
import io
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from fewshot.datasets.store import SplitStore, Store
from fewshot.episodes.draw import EpisodeBatch, draw_episodes, gather_batch
from fewshot.errors import CheckpointError, NumericalError, ResourceError
from fewshot.evaluation.scoring import mean_ci95, score_episodes
from fewshot.experiments.build import initial_learner, preprocessing, torch_seed
from fewshot.experiments.matrix import Experiment
from fewshot.experiments.params import Recipe
from fewshot.files import write_atomic
from fewshot.learners.base import Learner
from fewshot.progress import bar, duration, say
from fewshot.training.parallel import SINGLE_PROCESS, ProcessGroup
from fewshot.weights.checkpoint import fit_state, load_checkpoint, load_weights, save_checkpoint, save_weights
from fewshot.weights.foreign import load_foreign_weights

WARM_UP_STEPS = 5  # they compile kernels and fill caches, so the estimate of the remaining time leaves them out
TIMED_STEPS = 10


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop; its state has been saved."""


@dataclass
class Epoch:
    """One row of history.csv; accuracies 0..1."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    validation_accuracy: float | None
    validation_ci95: float | None


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: outer steps done.
        loss_sum: of the steps of the epoch under way; also `accuracy_sum`.
        history: of the finished epochs.
        kept: (validation accuracy, epoch) of the checkpoints kept, best first.
    """

    step: int = 0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    kept: list[tuple[float, int]] = field(default_factory=list)


def train(
    experiment: Experiment,
    store: Store,
    out: Path,
    checkpoints: Path,
    device: torch.device,
    checkpoint_seconds: float,
    group: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, Any]:
    """Train a learner, going on from the last checkpoint if there is one.

    Args:
        experiment: what to train.
        store: the prepared data set.
        out: folder that gets weights.safetensors, history.csv and, for an ensemble, ensemble/epoch-<n>.safetensors.
        checkpoints: folder for the state of the run; what lies there is taken up.
        device: where to compute.
        checkpoint_seconds: time between checkpoints within an epoch.
        group: the processes that share the training; the first of them writes the files.

    Returns:
        Facts about the run for run.json (times among them).

    Raises:
        NumericalError: if a loss is not finite.
        ResourceError: if memory is short; names the setting to lower.
        CheckpointError: if a checkpoint is damaged.
        Interrupted: on SIGINT or SIGTERM, after the state was saved.
    """
    learner = initial_learner(experiment).to(device)
    if experiment.weights is not None:
        return _take_over(experiment.weights, learner, out)
    run = _Run(experiment, store, learner, checkpoints, device, checkpoint_seconds, group)
    with _memory_errors(experiment), stop_signals() as stopped:
        run.go(stopped)
    if group.leads:
        run.publish(out)
    return run.facts()


def _take_over(weights: Path, learner: Learner, out: Path) -> dict[str, Any]:
    """Publish given weights in the place of trained ones."""
    load_foreign_weights(weights, learner)
    save_weights(out / "weights.safetensors", learner)
    write_history(out / "history.csv", [])
    return {"weights_from": str(weights)}


class _Run:
    """State of one training run."""

    def __init__(
        self,
        experiment: Experiment,
        store: Store,
        learner: Learner,
        checkpoints: Path,
        device: torch.device,
        checkpoint_seconds: float,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.group = group
        self.experiment, self.recipe = experiment, experiment.recipe
        self.learner, self.device = learner, device
        self.split, self.store = store.split(self.recipe.train_split), store
        self.preprocess = preprocessing(experiment)
        self.optimizer = _optimizer(self.recipe, learner)
        self.folder, self.checkpoint_seconds = checkpoints, checkpoint_seconds
        self.progress = Progress()
        self.started = self.saved = self.warm = time.monotonic()
        self.resumed_at = self._resume()

    @property
    def total_steps(self) -> int:
        return self.recipe.epochs * self.recipe.steps_per_epoch

    def go(self, stopped: Callable[[], str | None]) -> None:
        """Train to the end."""
        self._announce()
        first = self.progress.step
        for step in bar(
            range(first, self.total_steps), total=self.total_steps, initial=first, what=self.experiment.name
        ):
            self._step(step)
            self._estimate(step - first + 1)
            if self.progress.step % self.recipe.steps_per_epoch == 0:
                self._end_epoch()
            elif time.monotonic() - self.saved > self.checkpoint_seconds:
                self._save()
            if (name := self.group.agree_to_stop(stopped())) is not None:
                self._save()
                raise Interrupted(
                    f"{name}: stopped after step {self.progress.step}; the same command goes on from there"
                )

    def _step(self, step: int) -> None:
        """Take one outer step: forward and backward in chunks of episodes, then the optimiser."""
        torch.manual_seed(torch_seed(self.experiment, "step", step * self.group.size + self.group.rank))
        learning_rate = self.recipe.learning_rate * rate_multiplier(self.recipe, step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        batch = self.group.share(training_batch(self.experiment, self.split, step))
        self.learner.train()
        self.optimizer.zero_grad(set_to_none=True)
        size = self.recipe.episodes_per_backward or self.learner.episodes_per_backward or len(batch)
        loss = accuracy = 0.0
        for chunk in batch.chunks(size):
            share = len(chunk) / self.recipe.meta_batch
            with self._divergence():
                output = self.learner.loss(self.preprocess(chunk.to(self.device), training=True), step)
            (output.loss * share).backward()
            loss += output.loss.item() * share
            accuracy += output.accuracy.item() * share
        self.group.sum_gradients(self.learner)
        loss, accuracy = self.group.sum(loss, accuracy)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        self.optimizer.step()
        self.group.average_statistics(self.learner)
        self.progress.step = step + 1
        self.progress.loss_sum += loss
        self.progress.accuracy_sum += accuracy

    @contextmanager
    def _divergence(self) -> Iterator[None]:
        """Say of values that are not finite what the usual cause is."""
        try:
            yield
        except NumericalError as error:
            raise self._diverged(str(error)) from None

    def _diverged(self, what: str) -> NumericalError:
        return NumericalError(
            f"{self.experiment.name}: {what} (after {self.progress.step} steps, at learning rate "
            f"{self.optimizer.param_groups[0]['lr']:g}); lower recipes.{self.experiment.recipe_name}.learning_rate"
        )

    def _check_weights(self) -> None:
        """Refuse weights that the last step made useless: its loss was computed before it."""
        for name, value in self.learner.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise self._diverged(f"{name} is not finite")

    def _end_epoch(self) -> None:
        """Validate, keep the best states, write the history row and a checkpoint."""
        progress, steps = self.progress, self.recipe.steps_per_epoch
        epoch = progress.step // steps
        self._check_weights()
        self.group.check_agreement(self.learner)
        with self._divergence():
            validation = self._validate()
        row = Epoch(
            epoch,
            progress.step,
            progress.loss_sum / steps,
            progress.accuracy_sum / steps,
            self.optimizer.param_groups[0]["lr"],
            *(validation or (None, None)),
        )
        progress.loss_sum = progress.accuracy_sum = 0.0
        progress.history.append(asdict(row))
        if validation is not None:
            self._keep(validation[0], epoch)
        self._save()
        seen = "" if validation is None else f", validation {validation[0]:.1%}"
        say(f"epoch {epoch}/{self.recipe.epochs}: loss {row.train_loss:.4f}, accuracy {row.train_accuracy:.1%}{seen}")

    def _validate(self) -> tuple[float, float] | None:
        """Return (accuracy, interval) on the validation episodes, the same after every epoch."""
        wanted = self.recipe.validation
        if not wanted.episodes or not self.group.leads:
            return None
        split = self.store.split("validation")
        episodes = draw_episodes(
            self.experiment.seed,
            "validation",
            np.arange(wanted.episodes),
            self.recipe.validation_form,
            split.class_sizes,
        )
        scores = score_episodes([self.learner], split, episodes, [wanted.n_shot], self.preprocess, self.device)
        return mean_ci95(scores[wanted.n_shot].accuracies)

    def _keep(self, accuracy: float, epoch: int) -> None:
        """Keep the state if it is among the best; earlier epochs win ties."""
        ranked = sorted([*self.progress.kept, (accuracy, epoch)], key=lambda item: (-item[0], item[1]))
        self.progress.kept = ranked[: self.recipe.keep_checkpoints]
        if (accuracy, epoch) in self.progress.kept:
            save_weights(self._kept_file(epoch), self.learner)

    def _kept_file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch}.safetensors"

    def _save(self) -> None:
        if not self.group.leads:
            return
        state = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        save_checkpoint(self.folder / "checkpoint.pt", state)
        kept = {self._kept_file(epoch) for _, epoch in self.progress.kept}
        for file in self.folder.glob("epoch-*.safetensors"):
            if file not in kept:
                file.unlink()
        self.saved = time.monotonic()

    def _resume(self) -> int:
        """Take up a checkpoint; returns the step it stands at.

        Raises:
            CheckpointError: if it is damaged, of another model or optimiser, or kept weights are missing.
        """
        path = self.folder / "checkpoint.pt"
        state = load_checkpoint(path)
        if state is None:
            return 0
        try:
            fit_state(state["learner"], self.learner, source=str(path))
            self.optimizer.load_state_dict(state["optimizer"])
            progress = state["progress"]
            self.progress = Progress(**{**progress, "kept": [tuple(item) for item in progress["kept"]]})
            missing = [file for _, epoch in self.progress.kept if not (file := self._kept_file(epoch)).exists()]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: incomplete ({error!r}); delete it to train from the start") from None
        if missing:
            raise CheckpointError(f"{missing[0]}: missing; delete {path} to train from the start")
        say(f"{self.experiment.name}: going on after step {self.progress.step} of {self.total_steps}")
        return self.progress.step

    def _announce(self) -> None:
        parameters = sum(parameter.numel() for parameter in self.learner.parameters())
        say(
            f"{self.experiment.name}: {parameters:,} parameters, {self.total_steps:,} steps of "
            f"{self.recipe.meta_batch} episodes on {self.device}{self._memory()}"
        )

    def _memory(self) -> str:
        needed = self.learner.estimate_step_bytes(
            n_shot=self.recipe.n_shot,
            n_query=self.recipe.n_query,
            episodes=self.recipe.episodes_per_backward or self.recipe.meta_batch // self.group.size,
        )
        return "" if needed is None else f", about {needed / 2**20:,.0f} MiB of memory a step"

    def _estimate(self, steps: int) -> None:
        """Say once, after so many steps of this process, how long the rest will take."""
        if steps == WARM_UP_STEPS:
            self.warm = time.monotonic()
        elif steps == WARM_UP_STEPS + TIMED_STEPS:
            seconds_a_step = (time.monotonic() - self.warm) / TIMED_STEPS
            remaining = seconds_a_step * (self.total_steps - self.progress.step)
            say(f"{self.experiment.name}: about {duration(remaining)} to go, validation not counted")

    def publish(self, out: Path) -> None:
        """Write the results: the best state as the weights, the kept states as the ensemble."""
        write_history(out / "history.csv", self.progress.history)
        if not self.progress.kept:
            save_weights(out / "weights.safetensors", self.learner)
            return
        best = self.progress.kept[0][1]
        load_weights(self._kept_file(best), self.learner)
        save_weights(out / "weights.safetensors", self.learner)
        if self.recipe.keep_checkpoints > 1:
            (out / "ensemble").mkdir()
            for _, epoch in self.progress.kept:
                shutil.copyfile(self._kept_file(epoch), out / "ensemble" / self._kept_file(epoch).name)

    def facts(self) -> dict[str, Any]:
        return {
            "resumed_at_step": self.resumed_at,
            "seconds": round(time.monotonic() - self.started, 3),
            "parameters": sum(parameter.numel() for parameter in self.learner.parameters()),
            "selected_epoch": self.progress.kept[0][1] if self.progress.kept else self.recipe.epochs,
            "episodes_per_backward": self.recipe.episodes_per_backward or self.learner.episodes_per_backward,
            "devices": self.group.size,
            "batch_norm_statistics": self.group.batch_norm_statistics,
        }


def training_batch(experiment: Experiment, split: SplitStore, step: int) -> EpisodeBatch:
    """Return the episodes of an outer step: those with index `step * meta_batch + i`."""
    recipe = experiment.recipe
    first = step * recipe.meta_batch
    episodes = draw_episodes(
        experiment.seed,
        recipe.train_split,
        np.arange(first, first + recipe.meta_batch),
        recipe.form,
        split.class_sizes,
    )
    return gather_batch(split.images, split.class_starts, episodes, recipe.n_shot)


def rate_multiplier(recipe: Recipe, step: int) -> float:
    """Return what the learning rate is multiplied with at an outer step (from 0)."""
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / (recipe.epochs * recipe.steps_per_epoch)))
    epoch = step // recipe.steps_per_epoch
    reached = [factor for start, factor in recipe.schedule if epoch >= start]
    return reached[-1] if reached else 1.0


def _optimizer(recipe: Recipe, learner: Learner) -> torch.optim.Optimizer:
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


def write_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write one row an epoch as CSV; empty cells where there was no validation."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Epoch.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomic(path, text.getvalue().encode())


@contextmanager
def stop_signals() -> Iterator[Callable[[], str | None]]:
    """Turn SIGINT and SIGTERM into a request that the loop reads after each step."""
    received: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _memory_errors(experiment: Experiment) -> Iterator[None]:
    """Turn "out of memory" into an error that names the settings to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
        if not short:
            raise
        raise ResourceError(
            f"{experiment.name}: out of memory; lower recipes.{experiment.recipe_name}.episodes_per_backward (1 needs "
            "least; batch-norm statistics are then taken over fewer episodes), or n_shot, or backbone.filters"
        ) from error
