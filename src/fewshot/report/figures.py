"""Figures of the results: accuracy with its counterparts, learning curves, shots, cross-domain.

This module takes the data of each figure from the report; `drawings.py` draws it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from fewshot.report.contents import Block, Cell, Contents, Line, counterpart
from fewshot.report.curves import read_history
from fewshot.report.drawings import (
    Accuracies,
    AccuracyPanel,
    CrossDomain,
    Curve,
    Mark,
    ShotsLine,
    ShotsPanel,
    draw_accuracy,
    draw_cross_domain,
    draw_learning_curves,
    draw_shots,
)
from fewshot.report.learner_table import chance_pct
from fewshot.report.pictures import Picture

SECTION = "Accuracy and training"

History = list[dict[str, str]]  # rows of history.csv


def result_pictures(contents: Contents) -> Iterator[Picture]:
    """Yield every figure that the numbers allow."""
    if contents.cells:
        yield accuracy(contents.blocks)
    curves = learning_curves(contents)
    if curves is not None:
        yield curves
    if any(len(block.shots) > 2 for block in contents.blocks):
        yield shots_curve(contents.blocks)
    yield from cross_domain(contents)


def accuracy(blocks: Sequence[Block]) -> Picture:
    """Return the figure of every number with its interval, and the number it is compared with."""
    has_counterpart = any(block.has_published for block in blocks)
    data = Accuracies(
        tuple(_accuracy_panel(block) for block in blocks),
        tuple(sorted({shot for block in blocks for shot in block.shots})),
        counterpart(cell for block in blocks for cell in block.cells) if has_counterpart else "",
    )
    return Picture(
        "accuracy",
        SECTION,
        "Test accuracy of each learner with its 95 % interval, and just below it, in the same colour, a white diamond: "
        "the number it is compared with, and its interval if given; pale if it is not comparable (see the protocol "
        "card). Dashed: chance.",
        draw_accuracy,
        data,
    )


def _accuracy_panel(block: Block) -> AccuracyPanel:
    rows = tuple((line.name, tuple(map(_mark, line.cells.values()))) for line in block.lines)
    return AccuracyPanel(block.title, chance_pct(block.cells[0].row), rows)


def _mark(cell: Cell) -> Mark:
    number = cell.verdict.number
    if number is None:
        return Mark(cell.row.shot, cell.accuracy_pct, cell.ci95_pct)
    comparable = not cell.verdict.reasons
    return Mark(cell.row.shot, cell.accuracy_pct, cell.ci95_pct, number.accuracy_pct, number.ci95_pct, comparable)


def learning_curves(contents: Contents) -> Picture | None:
    """Return the learning curves, one panel per data set and backbone; None if nothing was trained."""
    panels: dict[str, dict[str, list[History]]] = defaultdict(lambda: defaultdict(list))
    for entry in contents.trainings:
        if history := read_history(entry):
            panels[f"{entry.dataset}, {entry.backbone}"][entry.group].append(history)
    if not panels:
        return None
    data = tuple(
        (title, tuple(_curve(histories, contents.labels[group]) for group, histories in groups.items()))
        for title, groups in panels.items()
    )
    return Picture(
        "learning_curves",
        SECTION,
        "Accuracy on validation episodes after each epoch, and the training loss of the epoch: means over the training "
        "seeds. The band is the 95 % interval over episodes for one seed, and the range over seeds for several.",
        draw_learning_curves,
        data,
    )


def _curve(histories: Sequence[History], label: str) -> Curve:
    length = min(map(len, histories))
    accuracies = 100 * _column(histories, "validation_accuracy", length)
    mean, low, high = accuracies.mean(axis=0), accuracies.min(axis=0), accuracies.max(axis=0)
    if len(histories) == 1:
        width = 100 * _column(histories, "validation_ci95", length)[0]
        low, high = mean - width, mean + width
    epochs = _column(histories, "epoch", length)[0]
    return Curve(label, epochs, _column(histories, "train_loss", length).mean(axis=0), mean, low, high)


def _column(histories: Sequence[History], name: str, length: int) -> np.ndarray:
    """Return a column of the histories, (seeds, length); nan where it is empty."""
    texts = [[record.get(name, "") for record in history[:length]] for history in histories]
    return np.array([[float(text) if text else np.nan for text in row] for row in texts])


def shots_curve(blocks: Sequence[Block]) -> Picture:
    """Return the figure of accuracy against the number of shots."""
    panels = []
    for block in blocks:
        if len(block.shots) > 2:
            lines = tuple(_shots_line(line) for line in block.lines)
            panels.append(ShotsPanel(block.title, block.shots, lines))
    return Picture(
        "shots",
        SECTION,
        "Accuracy over support images per class, with 95 % intervals. More shots add support images to the same "
        "episodes and keep the queries, so the curves are paired.",
        draw_shots,
        tuple(panels),
    )


def _shots_line(line: Line) -> ShotsLine:
    cells = [line.cells[shot] for shot in sorted(line.cells)]
    means, widths = tuple(cell.accuracy_pct for cell in cells), tuple(cell.ci95_pct for cell in cells)
    return ShotsLine(line.name, tuple(cell.row.shot for cell in cells), means, widths)


def cross_domain(contents: Contents) -> Iterator[Picture]:
    """Yield one matrix per number of shots, for the models tested on several targets, if any."""
    targets_of: dict[str, set[str]] = defaultdict(set)
    for cell in contents.cells:
        targets_of[cell.row.entry.group].add(cell.row.entry.target)
    cells = [cell for cell in contents.cells if len(targets_of[cell.row.entry.group]) > 1]
    targets = list(dict.fromkeys(cell.row.entry.target for cell in cells))
    for shot in sorted({cell.row.shot for cell in cells}):
        yield _cross_domain_matrix([cell for cell in cells if cell.row.shot == shot], targets, shot)


def _cross_domain_matrix(cells: Sequence[Cell], targets: Sequence[str], shot: int) -> Picture:
    rows: dict[str, dict[str, Cell]] = defaultdict(dict)
    for cell in cells:
        rows[f"{cell.row.entry.dataset}: {cell.method}, {cell.row.entry.backbone}"][cell.row.entry.target] = cell
    values = np.array([[row[t].accuracy_pct if t in row else np.nan for t in targets] for row in rows.values()])
    return Picture(
        f"cross_domain-{shot}shot",
        "Cross-domain",
        f"{shot}-shot accuracy in percent of each trained model (row) on the test classes of each data set (column).",
        draw_cross_domain,
        CrossDomain(f"{shot}-shot", tuple(rows), tuple(targets), values),
    )
