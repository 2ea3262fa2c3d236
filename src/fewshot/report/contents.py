"""Content of a report, independent of format: rows with verdicts and marks, laid out like the tables of the papers."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewshot.errors import DataError, printable
from fewshot.report.compare import Comparison, Difference, compare_rows
from fewshot.report.expected_differences import expected_differences
from fewshot.report.inputs import ReportEntry, SuiteReport
from fewshot.report.measure import Row, Run, group_labels, group_rows, read_runs
from fewshot.report.published import expected_numbers, published_numbers
from fewshot.report.verdict import DifferenceVerdict, Verdict, judge_suite

MAX_LOG_LINE = 300


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        row: the number and where it comes from.
        label: short name of its group.
        verdict: how it compares with the published number.
        mark: "best", "tied" with the best, or "".
        from_best: paired difference from the best row of its column; None for the best.
    """

    row: Row
    label: str
    verdict: Verdict
    mark: str
    from_best: Difference | None = None

    @property
    def method(self) -> str:
        """The label, with a note if the row is an ensemble of checkpoints."""
        return method_name(self.label, self.row)

    @property
    def accuracy_pct(self) -> float:
        """Mean accuracy, percent."""
        return 100 * self.row.estimate.mean

    @property
    def ci95_pct(self) -> float:
        """Half width of its interval, percentage points."""
        return 100 * self.row.estimate.ci95


@dataclass(frozen=True)
class Line:
    """A line of a table: one method at several numbers of shots.

    Attributes:
        backbone: name of the backbone.
        label: name of the method.
        cells: shot -> number.
    """

    backbone: str
    label: str
    cells: dict[int, Cell]

    @property
    def name(self) -> str:
        """Method and backbone, as in the figures."""
        return f"{self.label}, {self.backbone}"


@dataclass(frozen=True)
class Block:
    """A table as in the papers: one data set and target.

    Attributes:
        title: "glyphs" or "mini_imagenet -> cub", with the number of ways, and of episodes where it varies.
        shots: columns.
        lines: rows.
    """

    title: str
    shots: tuple[int, ...]
    lines: tuple[Line, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All numbers of the table, line by line."""
        return tuple(cell for line in self.lines for cell in line.cells.values())

    @property
    def has_published(self) -> bool:
        """Whether any number in the table has a published counterpart."""
        return any(cell.verdict.number for cell in self.cells)

    @property
    def counterpart(self) -> str:
        """Heading of the numbers in comparison; see the function `counterpart`."""
        return counterpart(self.cells)


@dataclass(frozen=True)
class Contents:
    """Everything the tables and figures show.

    Attributes:
        suite: what the report was made from.
        runs: one per trained model, target, shot and selection.
        cells: one per group of seeds, target, shot and selection.
        comparisons: paired differences, one per family of rows.
        expected_differences: verdicts on the differences that were expected.
        missing: entries without a result.
    """

    suite: SuiteReport
    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    expected_differences: tuple[DifferenceVerdict, ...]
    missing: tuple[ReportEntry, ...]

    @property
    def finished(self) -> tuple[ReportEntry, ...]:
        """Entries with a result."""
        return tuple(entry for entry in self.suite.entries if entry not in self.missing)

    @property
    def trainings(self) -> tuple[ReportEntry, ...]:
        """The first finished entry of each training run, which targets and experiments may share."""
        found: dict[Path, ReportEntry] = {}
        for entry in self.finished:
            found.setdefault(entry.train_dir, entry)
        return tuple(found.values())

    @property
    def labels(self) -> dict[str, str]:
        """Group -> short name."""
        return {cell.row.entry.group: cell.label for cell in self.cells}

    @property
    def episodes_note(self) -> Callable[[Row], str]:
        """What titles say of a row's episodes; see the function `episodes_note`."""
        return episodes_note(cell.row for cell in self.cells)

    @property
    def pairs(self) -> Iterator[tuple[Row, Row, Difference]]:
        """Every pair of rows tested on the same episodes, with its difference."""
        for family in self.comparisons:
            for i, j in family.differences:
                yield family.rows[i], family.rows[j], family.difference(i, j)

    @property
    def blocks(self) -> list[Block]:
        """The cells laid out as tables."""
        return table_blocks(self.cells)


def counterpart(cells: Iterable[Cell]) -> str:
    """Return what the cells are compared with: "published" numbers of papers or this project's "expected" ones."""
    numbers = [cell.verdict.number for cell in cells if cell.verdict.number is not None]
    return "expected" if numbers and all(number.settings_hash is not None for number in numbers) else "published"


def read_contents(suite: SuiteReport, *, allow_missing: bool = False) -> Contents:
    """Read all evaluations of a suite and compare them.

    Raises:
        DataError: if one is missing and not `allow_missing`, or one is damaged.
    """
    missing = _missing(suite)
    runs = read_suite_runs(suite, allow_missing=allow_missing)
    rows = group_rows(runs)
    comparisons = tuple(compare_rows(rows))
    marks = {id(row): mark for family in comparisons for row, mark in zip(family.rows, family.marks, strict=True)}
    behind = {id(row): gap for family in comparisons for row, gap in zip(family.rows, family.from_best, strict=True)}
    labels = group_labels(rows)
    numbers = (*published_numbers(), *expected_numbers())
    judgement = judge_suite(rows, numbers, suite.settings, expected_differences())
    cells = tuple(
        Cell(row, labels[row.entry.group], verdict, marks[id(row)], behind[id(row)])
        for row, verdict in zip(rows, judgement.rows, strict=True)
    )
    return Contents(suite, runs, cells, comparisons, judgement.differences, missing)


def read_suite_runs(suite: SuiteReport, *, allow_missing: bool = False) -> tuple[Run, ...]:
    """Read all evaluations of a suite.

    Raises:
        DataError: if one is missing and not `allow_missing`, or one is damaged.
    """
    missing = _missing(suite)
    if missing and not allow_missing:
        raise DataError(f"results are missing or damaged; make them first:\n{describe_missing(missing)}")
    return tuple(run for entry in suite.entries if entry not in missing for run in read_runs(entry))


def _missing(suite: SuiteReport) -> tuple[ReportEntry, ...]:
    return tuple(entry for entry in suite.entries if not entry.exists)


def describe_missing(missing: Sequence[ReportEntry]) -> str:
    """Return a line per missing result: its damage or the end of its log, and the command to compute it."""
    return "\n".join(
        f"  {entry.experiment} on {entry.target}: {entry.damage or _state_of(entry)}; run: {entry.command}"
        for entry in missing
    )


def _state_of(entry: ReportEntry) -> str:
    """Return the last line of the log of a missing result and the log's path, or what was not started."""
    log = entry.log
    if log is None or not log.exists():
        return "trained, not evaluated" if entry.is_trained else "not started"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"{printable(last[:MAX_LOG_LINE])}; log {log}"


def table_blocks(cells: Sequence[Cell]) -> list[Block]:
    """Lay numbers out as in the papers: one table per data set and target, a line per method, a column per shot.

    Rows tested on different numbers of episodes are in tables of their own, whose titles say so.
    """
    note = episodes_note(cell.row for cell in cells)
    tables: dict[str, dict[tuple[str, str, str], dict[int, Cell]]] = {}
    for cell in cells:
        line = (cell.row.entry.group, cell.row.entry.backbone, cell.method)
        title = f"{block_title(cell)}{note(cell.row)}"
        tables.setdefault(title, {}).setdefault(line, {})[cell.row.shot] = cell
    return [
        Block(
            title,
            tuple(sorted({shot for line in lines.values() for shot in line})),
            tuple(Line(backbone, name, shots) for (_, backbone, name), shots in lines.items()),
        )
        for title, lines in tables.items()
    ]


def episodes_note(rows: Iterable[Row]) -> Callable[[Row], str]:
    """Return what a title says of a row's episodes.

    It is ", 300 episodes" if other rows of the same data set, target and ways have another number of them, else "".
    """
    counts: dict[tuple[str, str, int], set[int]] = defaultdict(set)
    for row in rows:
        counts[row.family[:3]].add(row.protocol["episodes"])
    return lambda row: f", {row.protocol['episodes']:,} episodes" if len(counts[row.family[:3]]) > 1 else ""


def method_name(label: str, row: Row) -> str:
    """Return the label, with a note if the row is an ensemble of checkpoints."""
    return f"{label}, ensemble" if row.selection == "ensemble" else label


def row_name(labels: Mapping[str, str], row: Row) -> str:
    """Return method and backbone of a row, as in the figures."""
    return f"{method_name(labels[row.entry.group], row)}, {row.entry.backbone}"


def block_title(cell: Cell) -> str:
    """Return "glyphs, 5-way" or "mini_imagenet -> cub, 5-way"."""
    return f"{tested_on(cell.row)}, {cell.row.protocol['n_way']}-way"


def tested_on(row: Row) -> str:
    """Return "glyphs" or "mini_imagenet -> cub", with a note if tested classes are training classes."""
    entry = row.entry
    where = entry.dataset if entry.dataset == entry.target else f"{entry.dataset} -> {entry.target}"
    return f"{where} ({entry.seen})" if entry.seen else where
