"""Stage train: episodes -> learner. The loop knows no learner by name.

A run is a pure function of its settings and the data: episodes, augmentation and dropout are drawn from (seed, step),
so a run that was stopped after any step and resumed gives byte-identical results.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewshot.datasets.store import Store
from fewshot.experiments.build import initial_learner
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.fits import check_draws
from fewshot.experiments.precision import reproducible_arithmetic
from fewshot.learners.base import Learner
from fewshot.progress import bar, report, say
from fewshot.training.averaging import is_averaged
from fewshot.training.memory import MIB, check_memory, memory_errors
from fewshot.training.minibatches import check_classes, tell_feature_mean
from fewshot.training.outer_step import OuterStep
from fewshot.training.parallel import SINGLE_PROCESS, ProcessGroup
from fewshot.training.remaining_time import RemainingTime
from fewshot.training.selection import keep_if_best, publish, publish_given_weights
from fewshot.training.state import Checkpoints, TrainingState
from fewshot.training.stop_signals import Interrupted, stop_signals
from fewshot.training.tensorboard import CurveWriter
from fewshot.training.validation import inner_gradient_norms, validate
from fewshot.weights.start import load_backbone


def train(
    experiment: Experiment,
    store: Store,
    out: Path,
    checkpoints: Checkpoints,
    processes: ProcessGroup = SINGLE_PROCESS,
    start: Path | None = None,
    curves: Path | None = None,
) -> dict[str, Any]:
    """Train a learner, resuming from the last checkpoint if there is one.

    Args:
        experiment: what to train.
        store: the prepared data set.
        out: folder that gets weights.safetensors, history.csv and, for an ensemble, ensemble/epoch-<n>.safetensors.
        checkpoints: where and how often to save the state of the run.
        processes: those that share the training, and the device of this one; the first one writes the files.
        start: weights of the training whose backbone this one starts from; None starts from random weights.
        curves: folder for TensorBoard's event files; None writes none.

    Returns:
        Facts about the run for run.json (times among them).

    Raises:
        NumericalError: if a loss is not finite.
        ResourceError: if memory is short; names the settings to lower.
        CheckpointError: if a checkpoint is of another model, or a kept state was damaged meanwhile.
        DataError: if a split has too few classes or images for the episodes, or other classes than a classifier
            distinguishes; names the settings to change.
        Interrupted: on SIGINT or SIGTERM, after the state was saved.
    """
    reproducible_arithmetic(experiment.recipe.precision)
    own = [draw for _, draw in experiment.draws() if draw.use != "evaluation"]
    check_draws(experiment.dataset.label, store, own)
    learner = initial_learner(experiment)
    if start is not None:
        load_backbone(start, learner.trained_backbone)
    learner = learner.to(processes.device)
    if experiment.weights is not None:
        publish_given_weights(out, experiment.weights, learner)
        return {"weights_from": str(experiment.weights)}
    run = _Run(experiment, store, learner, checkpoints, processes)
    if curves is not None and processes.leads:
        run.curves = CurveWriter(curves, run.state.progress.history)
    with memory_errors(experiment), stop_signals() as stopped:
        run.announce()
        run.go(stopped)
        run.average()
    if processes.leads:
        publish(out, run.state, ensemble=experiment.recipe.keep_checkpoints > 1)
    return run.facts()


class _Run:
    """One training, from its initial weights or its checkpoint to its last step."""

    def __init__(
        self, experiment: Experiment, store: Store, learner: Learner, checkpoints: Checkpoints, processes: ProcessGroup
    ) -> None:
        self.experiment, self.recipe = experiment, experiment.recipe
        self.store, self.learner, self.processes = store, learner, processes
        split = store.split(self.recipe.train_split)
        check_classes(experiment, split)
        self.outer_step = OuterStep(experiment, split, learner, processes)
        self.state = TrainingState(learner, self.outer_step.optimizer, checkpoints, writes=processes.leads)
        self.total_steps = self.recipe.epochs * self.recipe.steps_per_epoch
        if self.state.resume():
            say(f"{experiment.name}: resuming after step {self.state.progress.step} of {self.total_steps}")
        self.first_step = self.state.progress.step
        self.curves: CurveWriter | None = None

    def go(self, stopped: Callable[[], str | None]) -> None:
        """Train to the last step.

        Args:
            stopped: returns the name of a signal that asked this process to stop, or None.
        """
        if not self.total_steps:
            self.tell_feature_mean()
        name, progress, remaining = self.experiment.name, self.state.progress, RemainingTime(self.experiment.name)
        steps = range(self.first_step, self.total_steps)
        for step in bar(steps, total=self.total_steps, initial=self.first_step, what=name):
            ends_epoch, is_due = (step + 1) % self.recipe.steps_per_epoch == 0, self.state.save_is_due()
            loss, accuracy = self.outer_step.take(step, ahead=not (ends_epoch or is_due or stopped()))
            progress.step_done(loss, accuracy)
            remaining.step_done(self.total_steps - progress.step)
            report("step", progress.step, self.total_steps, loss=loss)
            if ends_epoch:
                self._end_epoch()
            elif is_due:
                self.state.save()
            if self.outer_step.is_ahead:
                continue
            if (signal_name := self.processes.agree_to_stop(stopped())) is not None:
                self.state.save()
                raise Interrupted(
                    f"{signal_name}: stopped after step {progress.step}; the same command resumes from there"
                )

    def _end_epoch(self) -> None:
        """Validate, keep the state if it is among the best, write the history row and a checkpoint."""
        progress = self.state.progress
        self.outer_step.check_weights(progress.step)
        self.processes.check_agreement(self.learner)
        self.tell_feature_mean()
        validation, norms = self._validate()
        row = progress.epoch_done(self.recipe.steps_per_epoch, self.outer_step.learning_rate, validation, norms)
        if is_averaged(self.recipe, row.epoch):
            self.state.average.add(self.learner)
        if validation is not None and self.recipe.average_checkpoints == 1:
            keep_if_best(self.state, validation[0], row.epoch, self.recipe.keep_checkpoints)
        self.state.save()
        if self.curves is not None:
            self.curves.add(progress.history[-1])
        report("step", progress.step, self.total_steps, validation=row.validation_accuracy)
        seen = "" if validation is None else f", validation {validation[0]:.1%}"
        say(
            f"epoch {row.epoch}/{self.recipe.epochs}: loss {row.train_loss:.4f}, "
            f"accuracy {row.train_accuracy:.1%}{seen}"
        )

    def average(self) -> None:
        """Give the learner the mean of its weights after the last epochs, if the recipe says so."""
        if self.state.average.count:
            self.state.average.load_into(self.learner)
            self.tell_feature_mean()

    def tell_feature_mean(self) -> None:
        """Give the learner the mean embedding of the training classes, if it centres features."""
        step = self.outer_step
        tell_feature_mean(self.learner, step.split, step.preprocess, self.processes.device)

    def _validate(self) -> tuple[tuple[float, float] | None, dict[str, float | None]]:
        """Return accuracy with interval, and inner gradients, on the validation episodes; only one process does it."""
        if not self.processes.leads:
            return None, {}
        with self.outer_step.divergence(self.state.progress.step):
            given = (self.experiment, self.store, self.learner, self.processes.device)
            return validate(*given), inner_gradient_norms(*given)

    def announce(self) -> None:
        """Print what will be trained; refuse it if the device cannot hold a step.

        Raises:
            ResourceError: if the memory of the GPU cannot hold an outer step.
        """
        needed, device = self.outer_step.estimate_bytes(), self.processes.device
        memory = "" if needed is None else f", about {needed / MIB:,.0f} MiB of memory per step"
        say(
            f"{self.experiment.name}: {self.n_parameters:,} parameters, {self.total_steps:,} steps of "
            f"{self.recipe.items_per_step} {self.recipe.unit} on {device}{memory}"
        )
        if self.first_step < self.total_steps:
            check_memory(self.experiment, needed, device)

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.learner.parameters())

    def facts(self) -> dict[str, Any]:
        """Return what run.json records about the run."""
        kept = self.state.progress.kept
        return {
            "resumed_at_step": self.first_step,
            "seconds": round(self.state.seconds, 3),
            "parameters": self.n_parameters,
            "selected_epoch": kept[0].epoch if kept else self.recipe.epochs,
            **({"averaged_epochs": self.state.average.count} if self.state.average.count else {}),
            "episodes_per_backward": self.recipe.episodes_per_backward or self.learner.episodes_per_backward,
            "devices": self.processes.size,
            "batch_norm_statistics": self.processes.batch_norm_statistics,
        }
