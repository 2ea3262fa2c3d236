"""Which classes are hard: accuracy by class, confusion between classes, and calibration, over all test episodes.

They are made from the predictions that each evaluation stores; evaluations by earlier versions stored none.
Shapes: E episodes, M ways, Q query images in all, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fewshot.datasets.store import SplitStore, is_store, open_store
from fewshot.episodes.draw import class_labels
from fewshot.evaluation.calibration import calibration_error
from fewshot.files import read_npz
from fewshot.learners import LEARNERS
from fewshot.report.class_drawings import Confusion, Reliability, draw_calibration, draw_confusion
from fewshot.report.contents import Cell, Contents
from fewshot.report.measure import Row, Run
from fewshot.report.pictures import Picture
from fewshot.report.sheets import Mosaic, mosaic

MAX_CLASSES = 25  # the hardest ones are shown
MAX_CONFUSIONS = 40  # figures
EXAMPLES = 3  # images per class
NAMED = 3  # confusions in a caption


@dataclass(frozen=True)
class Predictions:
    """Test predictions of a row by class, over all its seeds.

    Attributes:
        cell: the row.
        given: (C, C) queries of class i that were given class j.
        possible: (C, C) queries of class i in episodes that contain class j.
    """

    cell: Cell
    given: np.ndarray
    possible: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """Share of correct predictions, (C,); nan for classes without queries."""
        return self.rate.diagonal()

    @property
    def rate(self) -> np.ndarray:
        """Share of the queries of class i that were given class j where j was possible, (C, C); nan elsewhere."""
        with np.errstate(invalid="ignore"):
            return np.where(self.possible > 0, self.given / self.possible, np.nan)


@dataclass(frozen=True)
class ClassTable:
    """Accuracy by class of all rows of one target and number of shots, the hardest class first.

    Attributes:
        title: of the table.
        names: of the classes.
        rows: rows of the report, in order.
        accuracy: (classes, rows), 0..1.
        examples: images of the classes, one row each; None if they are not on this machine.
        total: number of classes, of which the hardest are shown.
    """

    title: str
    names: tuple[str, ...]
    rows: tuple[Cell, ...]
    accuracy: np.ndarray
    examples: Mosaic | None
    total: int


def read_predictions(contents: Contents) -> tuple[list[Predictions], list[Run]]:
    """Return the predictions of every row of single models, and the runs whose evaluation stored none."""
    found, without = [], []
    for cell in contents.cells:
        if cell.row.selection == "single":
            predictions = _predictions(cell)
            without += [] if predictions else list(cell.row.runs)
            found += [predictions] if predictions else []
    return [padded for family in _families(found) for padded in _of_equal_size(family)], without


def _of_equal_size(family: Sequence[Predictions]) -> list[Predictions]:
    """Return predictions with the classes of all of them: a short evaluation may not draw the last ones."""
    count = max(len(found.given) for found in family)
    padding = [(0, count - len(found.given)) for found in family]
    return [
        replace(found, given=np.pad(found.given, extra), possible=np.pad(found.possible, extra))
        for found, extra in zip(family, padding, strict=True)
    ]


def _predictions(cell: Cell) -> Predictions | None:
    """Return the predictions of a row; None if an evaluation stored none."""
    stored = [_stored(run) for run in cell.row.runs]
    parts = [part for part in stored if part is not None]
    if len(parts) < len(stored):
        return None
    count = 1 + max(int(classes.max()) for classes, _ in parts)
    given, possible = np.sum([tally(classes, labels, count) for classes, labels in parts], axis=0)
    return Predictions(cell, given, possible)


def _stored(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the classes of the episodes, (E, M), and the predicted labels, (E, Q); None if they are not stored."""
    arrays = read_npz(run.entry.arrays)
    names = ("episode_classes", f"predictions/{run.shot}shot")
    return (arrays[names[0]], arrays[names[1]]) if all(name in arrays for name in names) else None


def tally(classes: np.ndarray, predicted: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Count queries by class.

    Args:
        classes: class of each label of each episode, (E, M).
        predicted: predicted label of each query, ordered by true label, (E, Q).
        count: number of classes, C.

    Returns:
        Queries of class i given class j, (C, C), and queries of class i in episodes with class j, (C, C).
    """
    ways = classes.shape[1]
    per_class = predicted.shape[1] // ways
    true = classes[:, class_labels(ways, per_class)].astype(np.int64)
    given = np.take_along_axis(classes, predicted.astype(np.int64), axis=1).astype(np.int64)
    pairs = (classes[:, :, None].astype(np.int64) * count + classes[:, None, :]).reshape(-1)
    matrices = [np.bincount(flat.reshape(-1), minlength=count * count) for flat in (true * count + given, pairs)]
    return matrices[0].reshape(count, count), per_class * matrices[1].reshape(count, count)


def class_tables(predictions: Sequence[Predictions]) -> list[ClassTable]:
    """Return the accuracy by class, one table per target and number of shots."""
    return [_class_table(found) for found in _families(predictions)]


def _families(predictions: Sequence[Predictions]) -> list[list[Predictions]]:
    """Group predictions by target, split and number of shots."""
    groups: dict[tuple[str, str, int], list[Predictions]] = {}
    for found in predictions:
        row = found.cell.row
        groups.setdefault((row.entry.target, row.protocol["split"], row.shot), []).append(found)
    return list(groups.values())


def _class_table(family: Sequence[Predictions]) -> ClassTable:
    row = family[0].cell.row
    accuracy = np.stack([found.accuracy for found in family], axis=1)
    shown = hardest(family)[:MAX_CLASSES]
    split, names = _split(row), class_names(row, len(accuracy))
    return ClassTable(
        f"{row.entry.target}, {row.shot}-shot",
        tuple(names[number] for number in shown),
        tuple(found.cell for found in family),
        accuracy[shown],
        mosaic(split, _examples(split, shown)) if split else None,
        len(accuracy),
    )


def _examples(split: SplitStore, classes: np.ndarray) -> np.ndarray:
    """Return the first images of some classes, (classes, examples) rows; the last one again where there are fewer."""
    return split.class_starts[classes, None] + np.minimum(np.arange(EXAMPLES), split.class_sizes[classes, None] - 1)


def hardest(family: Sequence[Predictions]) -> np.ndarray:
    """Return the classes by rising mean accuracy of the trained rows, or of all rows if none is trained."""
    trained = [found for found in family if found.cell.row.is_trained] or list(family)
    mean = np.mean([found.accuracy for found in trained], axis=0)
    return np.argsort(mean, kind="stable")[: np.isfinite(mean).sum()]


def class_names(row: Row, count: int) -> list[str]:
    """Return the names of the tested classes; numbers if the images are not on this machine."""
    split = _split(row)
    return list(split.class_names) if split else [f"class {number}" for number in range(count)]


def _split(row: Row) -> SplitStore | None:
    folder = row.entry.store_dir
    return open_store(folder).split(row.protocol["split"]) if is_store(folder) else None


def class_pictures(predictions: Sequence[Predictions]) -> Iterator[Picture]:
    """Yield the confusion of every learner at its largest number of shots, and the calibration by target."""
    largest: dict[str, list[Predictions]] = {}
    for family in sorted(_families(predictions), key=lambda family: family[0].cell.row.shot):
        largest[family[0].cell.row.entry.target] = family
    chosen = [(found, hardest(family)[:MAX_CLASSES]) for family in largest.values() for found in family]
    yield from (confusion(found, shown) for found, shown in chosen[:MAX_CONFUSIONS])
    for target in largest:
        yield from calibration([found.cell for found in predictions if found.cell.row.entry.target == target])


def confusion(found: Predictions, shown: np.ndarray) -> Picture:
    """Return the confusion of a row between the classes `shown`, with the most frequent ones in the caption."""
    row = found.cell.row
    rate = found.rate.copy()
    np.fill_diagonal(rate, np.nan)
    names = class_names(row, len(rate))
    order = np.argsort(-np.nan_to_num(rate, nan=-1.0), axis=None, kind="stable")[:NAMED]
    pairs = [np.unravel_index(place, rate.shape) for place in order]
    listed = ", ".join(f"{names[i]} as {names[j]} ({100 * rate[i, j]:.0f} %)" for i, j in pairs if rate[i, j] > 0)
    title = f"{found.cell.method}, {row.entry.backbone}, {row.shot}-shot"
    return Picture(
        f"confusion-{row.entry.group}-{row.entry.target}-{row.shot}shot",
        "Confusion",
        f"{title}, on {row.entry.target}: confusion between classes. Most frequent: {listed or 'none'}.",
        draw_confusion,
        Confusion(title, tuple(names[number] for number in shown), 100 * rate[np.ix_(shown, shown)]),
    )


def calibration(cells: Sequence[Cell]) -> Iterator[Picture]:
    """Yield accuracy by confidence of the rows of a target whose scores are probabilities, if any."""
    binned = [(cell, bins) for cell in cells if gives_probabilities(cell.row) and (bins := _bins(cell.row)) is not None]
    if not binned:
        return
    errors: dict[str, list[str]] = {}
    for cell, bins in binned:
        errors.setdefault(_name(cell), []).append(f"{100 * calibration_error(**bins):.1f}")
    panels: dict[str, list[Reliability]] = {}
    for cell, bins in binned:
        label = f"{_name(cell)}: {', '.join(errors[_name(cell)])}"
        panels.setdefault(f"{cell.row.shot}-shot", []).append(_reliability(label, bins))
    target = cells[0].row.entry.target
    left_out = list(dict.fromkeys(_name(cell) for cell in cells if not gives_probabilities(cell.row)))
    missing = f" Left out, since not trained as probabilities: {'; '.join(left_out)}." if left_out else ""
    yield Picture(
        f"calibration-{target}",
        "Calibration",
        f"Accuracy of the predictions of each predicted confidence, on {target}: on the dashed line, confidence is "
        "right; below it, too high. After each name: its calibration error at "
        f"{', '.join(panels)}, percentage points.{missing}",
        draw_calibration,
        tuple((title, tuple(lines)) for title, lines in panels.items()),
    )


def _name(cell: Cell) -> str:
    return f"{cell.method}, {cell.row.entry.backbone}"


def gives_probabilities(row: Row) -> bool:
    """Whether the softmax of a row's scores was trained, by cross-entropy with the features and head of the test."""
    learner = LEARNERS[row.protocol["train"]["learner"]["name"]]
    return row.is_trained and not row.changes.keys() & {"head", "pooling"} and not learner.minibatches


def _bins(row: Row) -> dict[str, np.ndarray] | None:
    """Return the bins of `calibration_bins`, summed over the seeds; None if an evaluation stored none."""
    total: dict[str, np.ndarray] = {}
    for run in row.runs:
        arrays = read_npz(run.entry.arrays)
        for name in ("count", "confidence", "correct"):
            stored = arrays.get(f"calibration/{run.shot}shot/{name}")
            if stored is None:
                return None
            total[name] = total.get(name, 0) + stored
    return total


def _reliability(label: str, bins: dict[str, np.ndarray]) -> Reliability:
    used = bins["count"] > 0
    confidence, accuracy = (100 * bins[name][used] / bins["count"][used] for name in ("confidence", "correct"))
    return Reliability(label, confidence, accuracy)


def advice(without: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the name, the folder to delete and the command of each evaluation that stored no predictions."""
    return [
        {"name": f"{entry.experiment} on {entry.target}", "folder": entry.evaluation.parent, "command": entry.command}
        for entry in {run.entry.evaluation: run.entry for run in without}.values()
    ]
