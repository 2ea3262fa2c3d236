"""Learning curves for TensorBoard, written while a training runs (`train.tensorboard`); no result depends on them."""

import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fewshot.errors import ParamsError

AXES = ("epoch", "step")


def check_installed() -> None:
    """Raise `ParamsError` unless the package that writes the curves is installed."""
    if find_spec("tensorboard") is None:
        raise ParamsError(
            "train.tensorboard: true needs the package tensorboard, which is not installed; run: make tensorboard "
            "(pip install 'fewshot-workflow[tensorboard]'), or set it to false"
        )


class CurveWriter:
    """Writes a point per epoch and curve; the horizontal axis is the number of outer steps.

    Args:
        folder: of the curves; those of an earlier run are replaced.
        history: rows of the epochs before the run was resumed, see `fewshot.training.history`.
    """

    def __init__(self, folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        for row in history:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the points of an epoch; a curve without a value has none."""
        for curve, value in row.items():
            if curve not in AXES and value is not None:
                self._writer.add_scalar(curve, value, row["step"])
        self._writer.flush()
