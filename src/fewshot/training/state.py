"""The state of a training run: its progress, and the checkpoint it is saved to and resumed from."""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewshot.errors import CheckpointError
from fewshot.training.history import Epoch
from fewshot.weights.checkpoint import fit_state, load_checkpoint, save_checkpoint


@dataclass
class Progress:
    """Progress of a training, and running totals for the current epoch.

    Attributes:
        step: outer steps done.
        loss_sum: loss of the current epoch's steps, summed.
        accuracy_sum: accuracy (0..1) of the current epoch's steps, summed.
        history: a row per finished epoch, as in `Epoch`.
        kept: (validation accuracy, epoch) of the kept states, best first.
    """

    step: int = 0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    kept: list[tuple[float, int]] = field(default_factory=list)

    def step_done(self, loss: float, accuracy: float) -> None:
        """Count an outer step."""
        self.step += 1
        self.loss_sum += loss
        self.accuracy_sum += accuracy

    def epoch_done(self, steps_per_epoch: int, learning_rate: float, validation: tuple[float, float] | None) -> Epoch:
        """Append the history row of the epoch that has just ended, and return it.

        Args:
            steps_per_epoch: outer steps per epoch.
            learning_rate: of the last step.
            validation: accuracy (0..1) and the half width of its 95 % interval; None without validation.
        """
        accuracy, ci95 = validation or (None, None)
        row = Epoch(
            epoch=self.step // steps_per_epoch,
            step=self.step,
            train_loss=self.loss_sum / steps_per_epoch,
            train_accuracy=self.accuracy_sum / steps_per_epoch,
            learning_rate=learning_rate,
            validation_accuracy=accuracy,
            validation_ci95=ci95,
        )
        self.history.append(asdict(row))
        self.loss_sum = self.accuracy_sum = 0.0
        return row


@dataclass(frozen=True)
class Checkpoints:
    """Where, and how often, the state of a training is saved.

    Attributes:
        folder: holds the checkpoint and the kept states; an existing checkpoint is resumed.
        seconds: between checkpoints within an epoch, so the most work that a kill can lose; one is also written after
            every epoch.
    """

    folder: Path
    seconds: float = math.inf

    @property
    def file(self) -> Path:
        """Checkpoint that a training run resumes from."""
        return self.folder / "checkpoint.pt"

    def kept_state(self, epoch: int) -> Path:
        """Return the file for the weights after an epoch, if they are among the best."""
        return self.folder / f"epoch-{epoch}.safetensors"


class TrainingState:
    """Everything a resumed training run needs: weights, optimiser state and progress.

    Args:
        learner: with its initial weights.
        optimizer: of the learner.
        checkpoints: where and how often to save.
        writes: whether this process saves; with several processes only one does, but all resume.
    """

    def __init__(
        self, learner: nn.Module, optimizer: torch.optim.Optimizer, checkpoints: Checkpoints, *, writes: bool = True
    ) -> None:
        self.learner, self.optimizer = learner, optimizer
        self.checkpoints, self.writes = checkpoints, writes
        self.progress = Progress()
        self.saved_at = time.monotonic()

    def save(self) -> None:
        """Write a checkpoint, then delete the kept states that it no longer names."""
        if not self.writes:
            return
        state = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        save_checkpoint(self.checkpoints.file, state)
        kept = {self.checkpoints.kept_state(epoch) for _, epoch in self.progress.kept}
        for file in self.checkpoints.folder.glob("epoch-*.safetensors"):
            if file not in kept:
                file.unlink()
        self.saved_at = time.monotonic()

    def save_if_due(self) -> None:
        """Write a checkpoint if the last one is older than `checkpoints.seconds`."""
        if time.monotonic() - self.saved_at > self.checkpoints.seconds:
            self.save()

    def resume(self) -> bool:
        """Load the checkpoint if there is one; return whether there was.

        Raises:
            CheckpointError: if it is damaged, of another model or optimiser, or kept states are missing.
        """
        path = self.checkpoints.file
        state = load_checkpoint(path)
        if state is None:
            return False
        try:
            fit_state(state["learner"], self.learner, source=str(path))
            self.optimizer.load_state_dict(state["optimizer"])
            progress = state["progress"]
            self.progress = Progress(**{**progress, "kept": [tuple(item) for item in progress["kept"]]})
            kept = [self.checkpoints.kept_state(epoch) for _, epoch in self.progress.kept]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: incomplete ({error!r}); delete it to train from the start") from None
        if missing := [file for file in kept if not file.exists()]:
            raise CheckpointError(f"{missing[0]}: missing; delete {path} to train from the start")
        return True
