"""The training history: one row per epoch, written as history.csv. It needs no torch, because the report reads it.

A learner that adapts by gradient steps may have more columns (`validation.inner_gradients`): `gradient_norm_<layer>`,
the norm of the inner gradient of a layer. Layers are counted from 1, the last one is `head`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fewshot.files import write_csv


@dataclass
class Epoch:
    """One row of history.csv.

    Attributes:
        epoch: epochs done, from 1.
        step: outer steps done.
        train_loss: mean over the epoch's steps.
        train_accuracy: mean over the epoch's query images, 0..1.
        learning_rate: of the epoch's last step.
        validation_accuracy: mean over the validation episodes, 0..1; None without validation.
        validation_ci95: half width of its 95 % interval; None without validation.
    """

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    validation_accuracy: float | None
    validation_ci95: float | None


COLUMNS = tuple(field.name for field in fields(Epoch))
GRADIENT_NORM = "gradient_norm_"


def gradient_norm_columns(n_layers: int) -> list[str]:
    """Return the columns of the layers of a network, the last of which is its head."""
    return [f"{GRADIENT_NORM}{layer}" for layer in (*range(1, n_layers), "head")]


def write_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write one row per epoch as CSV; cells are empty where there was no validation, or a layer was not adapted."""
    write_csv(path, history, list(history[0]) if history else COLUMNS)
