"""Rows of the committed evidence, chosen by hand: what a document says first.

<!-- rows --> ... <!-- end of rows -->    a table. The first two cells of a line are written by hand and kept, the first
                                          one names its row: "RFS, ResNet-12 <!-- suite experiment -->"; `fewshot
                                          evidence` fills the others from docs/evidence/<suite>/results.csv.
"""

import re
from pathlib import Path

from fewshot.errors import DataError, quoted
from fewshot.files import read_csv
from fewshot.report.text import pipes

START, END = "<!-- rows -->\n", "<!-- end of rows -->"
BLOCK = re.compile(f"{START}(.*?){END}", re.DOTALL)
LINE = re.compile(r"\| (?P<what>[^|]*<!-- (?P<suite>\w+) (?P<experiment>[\w.-]+) -->) \| (?P<how>[^|]*?) \|.*")
FORM = "| what <!-- suite experiment --> | how it was trained |"
SHOTS = ("1", "5")
HEADER = ["method, network, data", "training", "1-shot", "printed", "5-shot", "printed", "verdict"]
RULE = ["---", "---", "---:", "---:", "---:", "---:", "---"]


def embed_rows(text: str, evidence: Path) -> str:
    """Return the text of a document with the numbers of its chosen rows.

    Args:
        text: of the document.
        evidence: folder with a folder per suite.

    Raises:
        DataError: if a block is not closed, a line names no row, or the evidence has no such row.
    """

    def table(block: re.Match[str]) -> str:
        head = pipes([HEADER, RULE])
        written = [line for line in block[1].splitlines() if line not in head.splitlines()]
        return f"{START}{pipes([HEADER, RULE, *(_filled(evidence, line) for line in written)])}\n{END}"

    if text.count(START) != len(BLOCK.findall(text)):
        raise DataError(f"a block of chosen rows is not closed; write {END!r} on a line of its own after the table")
    return BLOCK.sub(table, text)


def _filled(evidence: Path, written: str) -> list[str]:
    """Return the cells of a line: what is written by hand, and the numbers."""
    line = LINE.fullmatch(written)
    if line is None:
        raise DataError(f"{quoted(written)} names no row of the evidence; write {FORM!r}")
    file = evidence / line["suite"] / "results.csv"
    rows = [row for row in (read_csv(file) if file.is_file() else []) if _is_chosen(row, line["experiment"])]
    rows.sort(key=lambda row: SHOTS.index(row["shot"]))
    if tuple(row["shot"] for row in rows) != SHOTS:
        raise DataError(f"{file} has not one row of {line['experiment']} for each of 1 and 5 shots; correct the name")
    cells = [cell for row in rows for cell in (_number(row, "accuracy_pct", "ci95_pct"), _printed(row))]
    verdicts = dict.fromkeys(_verdict(row) for row in rows if row["verdict"])
    return [line["what"], line["how"], *cells, " / ".join(verdicts)]


def _is_chosen(row: dict[str, str], experiment: str) -> bool:
    """Return whether a row is one of an experiment's single model, tested on the data it was trained on."""
    same = row["experiment"] == experiment and row["target"] == row["train_dataset"]
    return same and row["selection"] == "single" and row["shot"] in SHOTS


def _printed(row: dict[str, str]) -> str:
    return _number(row, "published_pct", "published_ci95_pct") if row["published_pct"] else ""


def _number(row: dict[str, str], mean: str, width: str) -> str:
    return f"{float(row[mean]):.1f}" + (f" ± {float(row[width]):.1f}" if row[width] else "")


def _verdict(row: dict[str, str]) -> str:
    """Return the verdict, saying so if it is about a quoted number, as in the tables."""
    is_quoted = row["published_confirmed"] == "quoted" and row["verdict"] != "not comparable"
    return f"{row['verdict']}, quoted" if is_quoted else row["verdict"]
