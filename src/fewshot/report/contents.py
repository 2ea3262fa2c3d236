"""What a report says, before any format: rows with their verdicts and marks, arranged as the papers print them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewshot.errors import DataError
from fewshot.report.compare import Comparison, compare_rows
from fewshot.report.inputs import ReportEntry, SuiteReport
from fewshot.report.measure import Row, Run, group_rows, labels, read_runs
from fewshot.report.published import expected_numbers, published_numbers
from fewshot.report.verdict import Verdict, judge

MAX_REASON = 300


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        row: the number and where it comes from.
        label: short name of its group.
        verdict: how it stands to the printed number.
        mark: "best", "tied" with the best, or "".
    """

    row: Row
    label: str
    verdict: Verdict
    mark: str

    @property
    def accuracy_pct(self) -> float:
        """Mean accuracy, percent."""
        return 100 * self.row.estimate.mean

    @property
    def ci95_pct(self) -> float:
        """Half width of its interval, percent points."""
        return 100 * self.row.estimate.ci95


@dataclass(frozen=True)
class Line:
    """A line of a printed table: one method at several shots.

    Attributes:
        backbone: name of the backbone.
        label: name of the method.
        cells: shot -> number.
    """

    backbone: str
    label: str
    cells: dict[int, Cell]


@dataclass(frozen=True)
class Block:
    """A printed table: one data set and target.

    Attributes:
        title: "glyphs" or "mini_imagenet -> cub", with the number of ways.
        shots: columns.
        lines: rows.
    """

    title: str
    shots: tuple[int, ...]
    lines: tuple[Line, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All its numbers, line by line."""
        return tuple(cell for line in self.lines for cell in line.cells.values())

    @property
    def has_published(self) -> bool:
        """Whether any of its numbers has a printed counterpart."""
        return any(cell.verdict.number for cell in self.cells)

    @property
    def counterpart(self) -> str:
        """What the numbers are compared with; see `counterpart`."""
        return counterpart(self.cells)


@dataclass(frozen=True)
class Contents:
    """All that the tables and figures show.

    Attributes:
        suite: what was asked for.
        runs: one a trained model, target, shot and selection.
        cells: one a group of seeds, target, shot and selection.
        comparisons: paired differences, one a family of episodes.
        missing: entries without a result.
    """

    suite: SuiteReport
    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    missing: tuple[ReportEntry, ...]

    @property
    def finished(self) -> tuple[ReportEntry, ...]:
        """Entries with a result."""
        return tuple(entry for entry in self.suite.entries if entry not in self.missing)

    @property
    def labels(self) -> dict[str, str]:
        """Group -> short name."""
        return {cell.row.entry.group: cell.label for cell in self.cells}

    @property
    def blocks(self) -> list[Block]:
        """The cells arranged as printed tables."""
        return arrange(self.cells)


def counterpart(cells: Iterable[Cell]) -> str:
    """Name the numbers that cells are compared with: published by papers, or expected by this project of itself."""
    numbers = [cell.verdict.number for cell in cells if cell.verdict.number is not None]
    return "expected" if numbers and all(number.settings_hash is not None for number in numbers) else "published"


def read_contents(suite: SuiteReport, *, allow_missing: bool = False) -> Contents:
    """Read all evaluations of a suite and compare them.

    Raises:
        DataError: if one is missing and not `allow_missing`, or one is damaged.
    """
    missing = tuple(entry for entry in suite.entries if not entry.exists)
    if missing and not allow_missing:
        raise DataError(f"results are missing; make them first:\n{describe_missing(missing)}")
    runs = tuple(run for entry in suite.entries if entry not in missing for run in read_runs(entry))
    rows = group_rows(runs)
    comparisons = tuple(compare_rows(rows))
    marks = {id(row): mark for family in comparisons for row, mark in zip(family.rows, family.marks, strict=True)}
    names = labels(rows)
    numbers = (*published_numbers(), *expected_numbers())
    cells = tuple(Cell(row, names[row.entry.group], judge(row, numbers), marks[id(row)]) for row in rows)
    return Contents(suite, runs, cells, comparisons, missing)


def describe_missing(missing: Sequence[ReportEntry]) -> str:
    """Say of each missing result why it is missing (the last line of its log), where its log is and how to make it."""
    return "\n".join(
        f"  {entry.experiment} on {entry.target}: {_why(entry.log)}; run: {entry.command}" for entry in missing
    )


def _why(log: Path | None) -> str:
    """Return the end of a log and its place; "no log yet" if its job never started."""
    if log is None or not log.exists():
        return "no log yet"
    said = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(said) if line.strip()), "no output")
    return f"{last[:MAX_REASON]}; log {log}"


def arrange(cells: Sequence[Cell]) -> list[Block]:
    """Arrange numbers as the papers do: a table a data set and target, a line a method, a column a shot."""
    tables: dict[str, dict[tuple[str, str, str], dict[int, Cell]]] = {}
    for cell in cells:
        line = (cell.row.entry.group, cell.row.entry.backbone, method_name(cell))
        tables.setdefault(block_title(cell), {}).setdefault(line, {})[cell.row.shot] = cell
    return [
        Block(
            title,
            tuple(sorted({shot for line in lines.values() for shot in line})),
            tuple(Line(backbone, name, shots) for (_, backbone, name), shots in lines.items()),
        )
        for title, lines in tables.items()
    ]


def method_name(cell: Cell) -> str:
    """Return the label, marked where several checkpoints vote."""
    return f"{cell.label}, ensemble" if cell.row.selection == "ensemble" else cell.label


def block_title(cell: Cell) -> str:
    """Return "glyphs, 5-way" or "mini_imagenet -> cub, 5-way"."""
    entry = cell.row.entry
    where = entry.dataset if entry.dataset == entry.target else f"{entry.dataset} -> {entry.target}"
    return f"{where}, {cell.row.protocol['n_way']}-way"
