"""The state of a training run: its progress, and the checkpoint it is saved to and resumed from."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from fewshot.digests import sha256_of
from fewshot.errors import CheckpointError
from fewshot.progress import say
from fewshot.training.averaging import WeightAverage
from fewshot.training.history import Epoch
from fewshot.weights.checkpoint import FROM_THE_START, DamagedError, fit_state, load_checkpoint, save_checkpoint


class Kept(NamedTuple):
    """A state that was kept because it is among the best.

    Attributes:
        accuracy: on the validation episodes, 0..1.
        epoch: after which it was kept.
        sha256: of its file.
    """

    accuracy: float
    epoch: int
    sha256: str


@dataclass
class Progress:
    """Progress of a training, and running totals for the current epoch.

    Attributes:
        step: outer steps done.
        loss_sum: loss of the current epoch's steps, summed.
        accuracy_sum: accuracy (0..1) of the current epoch's steps, summed.
        history: a row per finished epoch, see `history`.
        kept: the kept states, best first.
    """

    step: int = 0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    def step_done(self, loss: float, accuracy: float) -> None:
        """Count an outer step."""
        self.step += 1
        self.loss_sum += loss
        self.accuracy_sum += accuracy

    def epoch_done(
        self,
        steps_per_epoch: int,
        learning_rate: float,
        validation: tuple[float, float] | None,
        gradient_norms: Mapping[str, float | None],
    ) -> Epoch:
        """Append the history row of the epoch that has just ended, and return it.

        Args:
            steps_per_epoch: outer steps per epoch.
            learning_rate: of the last step.
            validation: accuracy (0..1) and the half width of its 95 % interval; None without validation.
            gradient_norms: further columns, see `history`.
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
        self.history.append({**asdict(row), **gradient_norms})
        self.loss_sum = self.accuracy_sum = 0.0
        return row


@dataclass(frozen=True)
class Checkpoints:
    """Where, and how often, the state of a training is saved.

    Attributes:
        folder: holds the last two checkpoints and the states they name; an existing checkpoint is resumed.
        seconds: between checkpoints within an epoch, so the most work that a kill can lose; one is also written after
            every epoch.
    """

    folder: Path
    seconds: float = math.inf

    @property
    def file(self) -> Path:
        """Checkpoint that a training run resumes from."""
        return self.folder / "checkpoint.pt"

    @property
    def previous(self) -> Path:
        """Checkpoint written before, from which it resumes if that one is damaged."""
        return self.folder / "checkpoint-previous.pt"

    def kept_state(self, epoch: int) -> Path:
        """Return the file for the weights after an epoch, if they are among the best."""
        return self.folder / f"epoch-{epoch}.safetensors"

    def intact_files(self, kept: Sequence[Kept]) -> list[Path]:
        """Return the files of kept states.

        Raises:
            DamagedError: if one is missing or has changed since it was written.
        """
        files = [self.kept_state(state.epoch) for state in kept]
        for file, state in zip(files, kept, strict=True):
            if not file.is_file() or sha256_of(file) != state.sha256:
                raise DamagedError(f"{file}: missing or damaged (its sha256 differs from the recorded one)")
        return files


class TrainingState:
    """Everything a resumed training run needs: weights, their average, optimiser state and progress.

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
        self.average = WeightAverage()
        self.started = self.saved_at = time.monotonic()
        self.seconds_before = 0.0
        self._newest_is_intact = True
        self._saved_kept: list[Kept] = []  # of the last intact checkpoint

    @property
    def seconds(self) -> float:
        """How long the training has run, with the runs that it resumed."""
        return self.seconds_before + time.monotonic() - self.started

    def save(self) -> None:
        """Write a checkpoint, keep the one before it, and delete the states that neither of them names.

        Raises:
            CheckpointError: if the folder was deleted and a kept state with it.
        """
        if not self.writes:
            return
        progress, folder = self.progress, self.checkpoints.folder
        files = [self.checkpoints.kept_state(kept.epoch) for kept in progress.kept]
        if lost := sorted(file for file in files if not file.exists()):
            raise CheckpointError(
                f"{lost[0]}: deleted while the training ran, but it holds the best weights so far; leave cache/ alone "
                "and rerun the same command: it trains from the start"
            )
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {**asdict(progress), "kept": [list(kept) for kept in progress.kept]},
            "average": self.average.state_dict(),
            "seconds": self.seconds,
        }
        save_checkpoint(folder / "checkpoint-new.pt", state)
        if self.checkpoints.file.exists() and self._newest_is_intact:
            self.checkpoints.file.replace(self.checkpoints.previous)
        (folder / "checkpoint-new.pt").replace(self.checkpoints.file)
        named = {self.checkpoints.kept_state(kept.epoch) for kept in (*progress.kept, *self._saved_kept)}
        for file in folder.glob("epoch-*.safetensors"):
            if file not in named:
                file.unlink()
        self._newest_is_intact, self._saved_kept = True, list(progress.kept)
        self.saved_at = time.monotonic()

    def save_is_due(self) -> bool:
        """Return whether the last checkpoint is older than `checkpoints.seconds`."""
        return time.monotonic() - self.saved_at > self.checkpoints.seconds

    def resume(self) -> bool:
        """Load the last intact checkpoint if there is one; return whether there was.

        Raises:
            CheckpointError: if it is of another model or optimiser.
        """
        damaged = False
        for path in (self.checkpoints.file, self.checkpoints.previous):
            try:
                if (state := load_checkpoint(path)) is None:
                    continue
                self._load(path, state)
            except DamagedError as error:
                damaged = True
                self._say(f"{error}; the checkpoint {path} is not used")
                continue
            self._newest_is_intact = not damaged
            self._saved_kept = list(self.progress.kept)
            return True
        if damaged:
            self._newest_is_intact = False
            self._say("no checkpoint is intact: training restarts from the beginning")
        return False

    def _load(self, path: Path, state: Mapping[str, Any]) -> None:
        """Take over the state in a checkpoint if the kept states that it names are intact."""
        try:
            progress = state["progress"]
            kept = [Kept(*item) for item in progress["kept"]]
            self.checkpoints.intact_files(kept)
            fit_state(state["learner"], self.learner, source=str(path))
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.load_state_dict(state["average"])
            self.seconds_before = float(state["seconds"])
            self.progress = Progress(**{**progress, "kept": kept})
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: incomplete ({error!r}); {FROM_THE_START}") from None

    def _say(self, text: str) -> None:
        """Print a line, once for all processes."""
        if self.writes:
            say(text)
