"""The first table of docs/benchmarks/README.md, read from the pages beside it.

    python -m benchmarks.headlines

`python -m benchmarks` renews it after the pages; a test fails if it is not in step with them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.measure import SECTIONS, table

START, END = "<!-- headlines -->", "<!-- end of headlines -->"


@dataclass(frozen=True)
class Headline:
    """A column of ratios on a page, summarised by its range.

    Attributes:
        page: file name.
        what: is measured.
        rival: it is compared with.
        column: header of the ratios.
        beside: header of a column that only this table of the page has.
        rows: column, and pattern (as of file names) of its cells in the rows that count; ("", "") for all.
        part: which of the numbers in a cell, separated by commas.
    """

    page: str
    what: str
    rival: str
    column: str
    beside: str = ""
    rows: tuple[str, str] = ("", "")
    part: int = 0


HEADLINES = [
    Headline(
        "training.md",
        "a whole training step",
        "the paper's program",
        "times as fast as the original",
        rows=("loop", "ours, *"),
    ),
    Headline(
        "inner_loop.md",
        "forward and backward pass of second-order MAML",
        "the same, written plainly",
        "tasks per second, ratio to plain",
        rows=("loop", "ours"),
        part=1,
    ),
    Headline("augmentation.md", "augmentation", "torchvision, image by image", "kernel / PIL"),
    Headline(
        "heads.md", "the SVM's solver", "qpth", "times faster than qpth", "error of alpha", rows=("solver", "numba")
    ),
    Headline(
        "evaluation.md",
        "a test list of 1,000 episodes",
        "one episode at a time",
        "1,000 episodes, times as fast",
    ),
    Headline(
        "evaluation.md",
        "a test list of 10,000 episodes",
        "one episode at a time",
        "10,000 episodes, times as fast",
    ),
]


def main() -> None:
    write_headlines()


def write_headlines(folder: Path = SECTIONS) -> None:
    """Write the table into the folder's README.

    Raises:
        SystemExit: if the README has no place for it.
    """
    index = folder / "README.md"
    before, start, rest = index.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"error: {index}: has no lines {START} and {END} to write between")
    index.write_text(f"{before}{start}\n{headlines(folder)}\n{end}{after}", encoding="utf-8")


def headlines(folder: Path = SECTIONS) -> str:
    """Return the table, of those pages that exist."""
    rows = [
        [headline.what, headline.rival, times(ratios(headline, folder)), f"[{headline.page}]({headline.page})"]
        for headline in HEADLINES
        if (folder / headline.page).exists()
    ]
    return table(["measured", "compared with", "times as fast", "page"], rows)


def times(values: Sequence[float]) -> str:
    """Return the range of ratios."""
    least, most = (f"{float(f'{value:.3g}'):,g}" for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def ratios(headline: Headline, folder: Path) -> list[float]:
    """Return the ratios that a headline summarises.

    Raises:
        SystemExit: if the page has no such column.
    """
    text = (folder / headline.page).read_text(encoding="utf-8")
    chosen, pattern = headline.rows
    for header, *rows in tables(text):
        if headline.column in header and (headline.beside or headline.column) in header:
            column = header.index(headline.column)
            wanted = [row for row in rows if not chosen or fnmatch(row[header.index(chosen)], pattern)]
            return [number(row[column], headline.part) for row in wanted]
    raise SystemExit(f"error: {folder / headline.page}: has no table with the column {headline.column!r}")


def tables(text: str) -> Iterator[list[list[str]]]:
    """Yield the Markdown tables of a page: the cells of the header and of the rows."""
    found: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
        elif found:
            yield [found[0], *found[2:]]
            found = []


def number(cell: str, part: int) -> float:
    """Return a number of a cell such as `**38**`, `49.8 [43..59]` or `13.3, 1.43`."""
    return float(cell.replace("*", "").split(",")[part].split("[")[0])


if __name__ == "__main__":
    main()
