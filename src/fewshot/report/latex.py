"""results.tex: the tables for a paper; they need ``\\usepackage{booktabs,amssymb}``."""

from collections.abc import Sequence

from fewshot.experiments.params import Report
from fewshot.report import difference_tables
from fewshot.report.contents import Block, Cell, Contents
from fewshot.report.tables import versus_best_text

_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "±": r"$\pm$", "†": r"$^\dagger$",
    }
)  # fmt: skip
_VERDICT_SIGNS = {
    "agrees": r"$=$",
    "higher": r"$\uparrow$",
    "lower": r"$\downarrow$",
    "undecided": "?",
    "not comparable": r"$\nsim$",
}
_LEGEND = (
    r"Accuracy (\%) $\pm$ 95\,\% interval. Bold: best in its column; $^\dagger$: not significantly worse (paired on "
    r"the same episodes, Holm-corrected, 5\,\%)."
)
_VERSUS_BEST_LEGEND = " Last in each column: the paired difference from the best row, with its corrected p value."
_PUBLISHED_LEGEND = (
    r" In parentheses: the %s number; $=$ agrees, $\uparrow$ ours is higher, $\downarrow$ ours is lower, "
    r"? undecided, $\nsim$ not comparable; q: quoted by another text."
)
_HEAD = "% Needs \\usepackage{booktabs,amssymb}. Made by `fewshot report`; do not edit.\n"


def escape(text: str) -> str:
    """Return text with LaTeX's special characters escaped."""
    return text.translate(_ESCAPES)


def latex(contents: Contents) -> str:
    """Return all tables of a report."""
    tables = [_table(block, contents.suite.settings) for block in contents.blocks]
    return _HEAD + "\n".join([*tables, *([_differences(contents)] if contents.expected_differences else [])])


def _table(block: Block, settings: Report) -> str:
    """Return one table: a line per method, a column per shot, as in the papers."""
    behind = int(settings.versus_best)
    shown = 2 if block.has_published else 1
    width = shown + behind
    columns = "ll" + (("r" if shown == 1 else r"r@{\hspace{0.6em}}l") + "r" * behind) * len(block.shots)
    header = ["Backbone", "Learner"]
    header += [f"\\multicolumn{{{width}}}{{c}}{{{shot}-shot}}" for shot in block.shots]
    body = []
    for line in block.lines:
        cells = [escape(line.backbone), escape(line.label)]
        for shot in block.shots:
            cell = line.cells.get(shot)
            cells += [*_cell(cell)[:shown], *[escape(versus_best_text(cell))][:behind]]
        body.append(" & ".join(cells) + r" \\")
    legend = (
        _LEGEND
        + (_VERSUS_BEST_LEGEND if behind else "")
        + (_PUBLISHED_LEGEND % block.counterpart if block.has_published else "")
    )
    return _environment(f"{escape(block.title)}. {legend}", columns, header, body)


def _differences(contents: Contents) -> str:
    """Return the table of the differences that were expected."""
    lines = difference_tables.expected_lines(contents)
    body = [" & ".join(map(escape, line)) + r" \\" for line in lines]
    caption = escape(f"{difference_tables.TITLE}. {difference_tables.LEGEND}")
    return _environment(caption, "rllrrrl", difference_tables.HEADER, body)


def _environment(caption: str, columns: str, header: Sequence[str], body: Sequence[str]) -> str:
    """Return a table with its caption; the lines of the body end with their line breaks."""
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{caption}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _cell(cell: Cell | None) -> list[str]:
    """Return our number, and the published number with the sign of the verdict."""
    if cell is None:
        return ["--", ""]
    mean = f"\\textbf{{{cell.accuracy_pct:.2f}}}" if cell.mark == "best" else f"{cell.accuracy_pct:.2f}"
    dagger = r"$^\dagger$" if cell.mark == "tied" else ""
    ours = f"{mean} $\\pm$ {cell.ci95_pct:.2f}{dagger}"
    number = cell.verdict.number
    if number is None:
        return [ours, ""]
    sign = _VERDICT_SIGNS[cell.verdict.word] + (r"\,q" if number.quoted else "")
    return [ours, f"{{\\footnotesize ({number.mean_text}\\,{sign})}}"]
