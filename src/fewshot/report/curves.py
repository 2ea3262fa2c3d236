"""curves/*.csv: the learning curve of each experiment, for `dvc plots` and the figures."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from fewshot.files import read_csv
from fewshot.report.inputs import ReportEntry

HISTORY = "history.csv"


def read_history(entry: ReportEntry) -> list[dict[str, str]]:
    """Return the rows of a training history, one per epoch; [] if there is no history or no epoch in it."""
    path = entry.train_dir / HISTORY
    return read_csv(path) if path.is_file() else []


def write_curves(folder: Path, trainings: Iterable[ReportEntry]) -> None:
    """Copy the history of each training to <experiment>.csv; an untrained learner has no curve."""
    folder.mkdir()
    for entry in trainings:
        if read_history(entry):
            shutil.copyfile(entry.train_dir / HISTORY, folder / f"{entry.experiment}.csv")
