"""history.csv: its columns, and that they can be read without torch."""

import subprocess
import sys

from fewshot.training.history import COLUMNS, write_history

WITHOUT_TORCH = "import sys, fewshot.training.history; sys.exit('torch' in sys.modules)"


def test_columns_are_importable_without_torch():
    assert subprocess.run([sys.executable, "-c", WITHOUT_TORCH]).returncode == 0


def test_cells_without_validation_are_empty(tmp_path):
    row = dict.fromkeys(COLUMNS, 1) | {"validation_accuracy": None, "validation_ci95": None}

    write_history(tmp_path / "history.csv", [row])

    assert (tmp_path / "history.csv").read_text().splitlines() == [
        "epoch,step,train_loss,train_accuracy,learning_rate,validation_accuracy,validation_ci95",
        "1,1,1,1,1,,",
    ]
