"""Model selection: keep the states with the best validation accuracy, publish them as the result."""

import shutil
from pathlib import Path

from fewshot.errors import CheckpointError
from fewshot.learners.base import Learner
from fewshot.training.history import write_history
from fewshot.training.state import Kept, TrainingState
from fewshot.weights.checkpoint import DamagedError, load_weights, save_weights
from fewshot.weights.foreign import load_foreign_weights


def keep_if_best(state: TrainingState, accuracy: float, epoch: int, at_most: int) -> None:
    """Keep the weights after an epoch if they are among the `at_most` best; earlier epochs win ties."""
    new = Kept(accuracy, epoch, sha256="")
    ranked = sorted([*state.progress.kept, new], key=lambda kept: (-kept.accuracy, kept.epoch))[:at_most]
    if new in ranked:
        state.checkpoints.folder.mkdir(parents=True, exist_ok=True)  # in case `cache/` was deleted
        sha256 = save_weights(state.checkpoints.kept_state(epoch), state.learner)
        state.progress.kept = [new._replace(sha256=sha256) if kept is new else kept for kept in ranked]


def publish(out: Path, state: TrainingState, *, ensemble: bool) -> None:
    """Write the results: the history, and the best state (without validation: the last) as the weights.

    Args:
        out: folder that gets weights.safetensors, history.csv and ensemble/epoch-<n>.safetensors.
        state: of the finished training.
        ensemble: whether to write all kept states as well.

    Raises:
        CheckpointError: if a kept state is damaged.
    """
    try:
        files = state.checkpoints.intact_files(state.progress.kept)
    except DamagedError as error:
        raise CheckpointError(f"{error}; rerun the same command: it trains again what was lost") from None
    if files:
        load_weights(files[0], state.learner)
    out.mkdir(parents=True, exist_ok=True)
    save_weights(out / "weights.safetensors", state.learner)
    write_history(out / "history.csv", state.progress.history)
    if files and ensemble:
        (out / "ensemble").mkdir()
        for file in files:
            shutil.copyfile(file, out / "ensemble" / file.name)


def publish_given_weights(out: Path, weights: Path, learner: Learner) -> None:
    """Write given weights as the result, with an empty history.

    Raises:
        CheckpointError: if the file is missing, damaged or does not fit the learner.
    """
    load_foreign_weights(weights, learner)
    save_weights(out / "weights.safetensors", learner)
    write_history(out / "history.csv", [])
