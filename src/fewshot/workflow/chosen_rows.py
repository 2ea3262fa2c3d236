"""Rows of the committed evidence, chosen by hand: what a document says first.

<!-- rows --> ... <!-- end of rows -->    a table. The first two cells of a line are written by hand and kept, the first
                                          one names its row: "RFS, ResNet-12 <!-- suite experiment -->"; `fewshot
                                          evidence` fills the others from docs/evidence/<suite>/results.csv.
"""

import re
from pathlib import Path

from fewshot.errors import DataError
from fewshot.files import read_csv
from fewshot.report.text import pipes

START, END = "<!-- rows -->\n", "<!-- end of rows -->"
BLOCK = re.compile(f"{START}(.*?){END}", re.DOTALL)
NAMED = r"[^|]*<!-- (?P<suite>\w+) (?P<experiment>[\w-]+) -->"
LINE = re.compile(rf"^\| (?P<what>{NAMED}) \| (?P<how>[^|]*?) \|", re.MULTILINE)
SHOTS = ("1", "5")
HEADER = ["method, network, data", "training", "1-shot", "printed", "5-shot", "printed", "verdict"]
RULE = ["---", "---", "---:", "---:", "---:", "---:", "---"]


def embed_rows(text: str, evidence: Path) -> str:
    """Return the text of a document with the numbers of its chosen rows.

    Args:
        text: of the document.
        evidence: folder with a folder per suite.

    Raises:
        DataError: if a block is not closed, or the evidence has no such row.
    """

    def table(block: re.Match[str]) -> str:
        lines = [[line["what"], line["how"], *_numbers(evidence, line)] for line in LINE.finditer(block[1])]
        return f"{START}{pipes([HEADER, RULE, *lines])}\n{END}"

    if text.count(START) != len(BLOCK.findall(text)):
        raise DataError(f"a block of chosen rows is not closed; write {END!r} on a line of its own after the table")
    return BLOCK.sub(table, text)


def _numbers(evidence: Path, line: re.Match[str]) -> list[str]:
    """Return our accuracy and the printed one at each number of shots, and the verdict."""
    file = evidence / line["suite"] / "results.csv"
    rows = {
        row["shot"]: row
        for row in (read_csv(file) if file.is_file() else [])
        if row["experiment"] == line["experiment"] and row["target"] == row["train_dataset"]
    }
    if missing := [shot for shot in SHOTS if shot not in rows]:
        raise DataError(f"{file} has no {' and '.join(missing)}-shot row of {line['experiment']}; correct the name")
    found = [rows[shot] for shot in SHOTS]
    cells = [cell for row in found for cell in (_number(row, "accuracy_pct", "ci95_pct"), _printed(row))]
    return [*cells, " / ".join(dict.fromkeys(row["verdict"] for row in found))]


def _printed(row: dict[str, str]) -> str:
    return _number(row, "published_pct", "published_ci95_pct") if row["published_pct"] else ""


def _number(row: dict[str, str], mean: str, width: str) -> str:
    return f"{float(row[mean]):.1f}" + (f" ± {float(row[width]):.1f}" if row[width] else "")
