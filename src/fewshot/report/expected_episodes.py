"""The accuracy per episode behind the numbers of `expected.yaml`, for paired comparisons.

`expected.npz`, next to it, has an array per number: the correct predictions of each test episode, summed over the
training seeds, (E,), uint16.
"""

from functools import cache
from pathlib import Path

import numpy as np

from fewshot.errors import DataError
from fewshot.files import read_npz
from fewshot.report.measure import Row
from fewshot.report.published import Published

ADVICE = "restore expected.yaml and expected.npz, or write both again with 'fewshot expected'"


def array_name(row: Row) -> str:
    """Return the name of a row's array in the file."""
    return f"{row.entry.group}/{row.entry.target}/{row.selection}/{row.shot}shot"


def correct_predictions(row: Row) -> np.ndarray:
    """Return the correct predictions of each episode, summed over the seeds of a row, (E,), uint16."""
    per_episode = row.protocol["n_way"] * row.protocol["n_query"]
    return np.rint(row.accuracies * per_episode).sum(axis=0).astype(np.uint16)


def paired_accuracies(row: Row, number: Published) -> np.ndarray | None:
    """Return the accuracy per episode of an expected number, (E,), 0..1; None if it has none for a row's episodes.

    Raises:
        DataError: if the stored predictions are missing or do not match the number.
    """
    stored = number.episodes
    if stored is None or stored.episodes_hash != row.runs[0].episodes_hash:
        return None
    correct = _arrays(Path(stored.file)).get(stored.array)
    if correct is None or len(correct) != row.accuracies.shape[1] or not _matches(correct, number):
        raise DataError(
            f"{stored.file}: array {stored.array!r} is missing or does not match the {number.mean_text} % of "
            f"expected.yaml; {ADVICE}"
        )
    return correct / stored.predictions


def _matches(correct: np.ndarray, number: Published) -> bool:
    assert number.episodes is not None
    return abs(100 * correct.mean() / number.episodes.predictions - number.accuracy_pct) < 0.01


@cache
def _arrays(file: Path) -> dict[str, np.ndarray]:
    """Read a file of counts; {} if it is missing."""
    if not file.is_file():
        return {}
    return {name: counts.astype(np.float64) for name, counts in read_npz(file, advice=ADVICE).items()}
