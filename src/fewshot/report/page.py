"""report.html: a single self-contained page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from fewshot.report import difference_tables, stats
from fewshot.report.classes import ClassTable, advice
from fewshot.report.coloured_tables import MAX_ROWS, class_table, difference_table, listed_families
from fewshot.report.contents import Cell, Contents, counterpart
from fewshot.report.environment import environment
from fewshot.report.learner_table import learner_tables
from fewshot.report.measure import Run
from fewshot.report.pictures import Picture
from fewshot.report.published import Published, published_numbers
from fewshot.report.sheets import STYLE, Mosaic, Sheet
from fewshot.report.summary import summary
from fewshot.report.tables import protocol_text, published_text
from fewshot.report.terms import explained, terms
from fewshot.report.verdict import Word

GLOSSARY = "../../../docs/glossary.md"
# Title, key of the value that it shows and sorts by, kind, whether it is empty without a counterpart.
COLUMNS = (
    ("trained on", "dataset", "", False), ("tested on", "target", "", False), ("backbone", "backbone", "", False),
    ("learner", "method", "", False), ("shot", "shot", "number", False), ("accuracy", "accuracy", "number", False),
    ("{counterpart}", "published_value", "number", True), ("difference", "difference", "number", True),
    ("verdict", "word", "", True), ("seeds", "seeds", "number", False),
)  # fmt: skip
CONSTANT_IS_LEFT_OUT = ("dataset", "target", "backbone")
FILTERS = {
    "dataset": "trained on",
    "target": "tested on",
    "backbone": "backbone",
    "learner": "learner",
    "shot": "shot",
    "verdict": "verdict",
}
SIGNS = {"agrees": "=", "higher": "▲", "lower": "▼", "undecided": "?", "not comparable": "≁", "none published": "–"}
PIXELS_PER_POINT = 1.7  # a figure of the common width is 560 pixels wide, and narrower on a phone
SAFE_IN_URL = " /:;=,!()'@*+$&?-._~|[]{}"


@dataclass(frozen=True)
class Shown:
    """What the page shows besides the numbers.

    Attributes:
        pictures: figures in the order of the page.
        sheets: the episode sheets.
        class_tables: accuracies by class.
        without_predictions: runs whose evaluation stored no predictions, so that they are not in `class_tables`.
    """

    pictures: Sequence[Picture]
    sheets: Sequence[Sheet]
    class_tables: Sequence[ClassTable]
    without_predictions: Sequence[Run]

    @property
    def mosaics(self) -> list[Mosaic]:
        """All images that sheets and tables refer to, each once."""
        found = [sheet.mosaic for sheet in self.sheets] + [table.examples for table in self.class_tables]
        return list({mosaic.id: mosaic for mosaic in found if mosaic is not None}.values())


def page(contents: Contents, shown: Shown, figures: Path) -> str:
    """Return the whole page.

    Args:
        contents: the numbers.
        shown: what else the page shows; the drawings are read from `figures`.
        figures: folder of the saved figures.
    """
    cells = [_cell(cell, number) for number, cell in enumerate(contents.cells)]
    compared_with, listed = counterpart(contents.cells), listed_families(contents)
    return (
        _templates()
        .get_template("page.html.jinja")
        .render(
            suite=contents.suite.suite,
            key=contents.suite.key,
            glossary=GLOSSARY,
            groups=len({cell["group"] for cell in cells}),
            runs=len({run.entry.evaluation for run in contents.runs}),
            missing=contents.missing,
            summary=summary(contents),
            table_note=_table_note(contents),
            tables=learner_tables(contents, cells),
            columns=_columns(cells, compared_with),
            filters=_filters(cells),
            cells=cells,
            originals=list(stats.ORIGINAL_INTERVALS),
            sections=_sections(shown.pictures, figures),
            sheets=shown.sheets,
            mosaics=shown.mosaics,
            class_tables=[class_table(table) for table in shown.class_tables],
            without_predictions=advice(shown.without_predictions),
            sheet_style=STYLE,
            matrices=[difference_table(family, contents.labels, contents.episodes_note) for family in listed],
            has_unlisted=any(len(family.rows) > MAX_ROWS for family in contents.comparisons),
            published=[_number(number) for number in _published_for(contents)],
            differences=difference_tables.difference_records(replace(contents, comparisons=tuple(listed))),
            expected_differences=_expected_differences(contents),
            expected_title=difference_tables.TITLE,
            expected_columns=_expected_columns(),
            environment=environment(contents),
            terms=list(terms().values()),
        )
    )


def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["explained"] = explained
    return templates


def _table_note(contents: Contents) -> Markup:
    """Return how to read the table: accuracies, marks and verdicts."""
    compared_with, margin = counterpart(contents.cells), contents.suite.settings.margin_pct
    tests = sum(cell.verdict.is_comparable for cell in contents.cells) + len(contents.expected_differences)
    even = ", even within that margin" if compared_with == "expected" else ""
    return Markup(
        "Accuracy in percent with the half width of its 95 % interval: over test episodes for one training seed, over "
        "episodes and seeds for several. <strong>Bold</strong>: best of its column; †: not significantly worse "
        "(paired, Holm-corrected, 5 %). "
        f"The verdict on the difference from the {compared_with} number: it agrees if it is within {margin:g} points "
        f"with 90 % confidence, and is higher or lower if it is significant at 5 % over all {tests} tests of this page "
        f"(Holm-corrected, with the variation between training runs){even}; otherwise it is undecided. "
        "A number opens its protocol card, which also says why it is not comparable. Training: mean time over the "
        "seeds."
    )


def _columns(cells: Sequence[dict[str, Any]], compared_with: str) -> list[dict[str, Any]]:
    """Return the columns of the long form; those with the same text in every row are left out."""
    return [
        {"title": title.format(counterpart=compared_with), "value": value, "kind": kind, "optional": optional}
        for title, value, kind, optional in COLUMNS
        if value not in CONSTANT_IS_LEFT_OUT or len({cell[value] for cell in cells}) > 1
    ]


def _filters(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the choices of each filter that has more than one."""
    filters = []
    for name, title in FILTERS.items():
        choices = list(dict.fromkeys(str(cell["word" if name == "verdict" else name]) for cell in cells))
        if len(choices) > 1:
            filters.append({"name": name, "title": title, "choices": choices})
    return filters


def _cell(cell: Cell, number: int) -> dict[str, Any]:
    """Return the texts of one number and its protocol card."""
    row, verdict = cell.row, cell.verdict
    gap, found = verdict.difference, verdict.number
    return {
        "card": f"card-{number}",
        "group": row.entry.group,
        "dataset": row.entry.dataset,
        "target": row.entry.target,
        "backbone": row.entry.backbone,
        "learner": row.entry.learner,
        "method": cell.method,
        "way": row.protocol["n_way"],
        "shot": row.shot,
        "accuracy": f"{cell.accuracy_pct:.2f}",
        "ci95": f"{cell.ci95_pct:.2f}",
        "mark": cell.mark,
        "published": published_text(cell),
        "published_value": "" if found is None else found.mean_text,
        "difference": "" if gap is None else f"{100 * gap.mean:+.2f}",
        "difference_ci95": "" if gap is None else f"{100 * gap.ci95:.2f}",
        "word": verdict.word,
        "verdict": verdict.text,
        "verdict_class": _verdict_class(verdict.word),
        "sign": SIGNS[verdict.word],
        "reasons": verdict.reasons,
        "numbers": [_number(other) for other in ([found, *verdict.others] if found else [])],
        "seeds": len(row.runs),
        "protocol": protocol_text(row),
        "runs": [_run(run) for run in row.runs],
        "settings": _settings(cell),
    }


def _verdict_class(word: Word) -> str:
    """Return the style of a verdict, "none" if nothing was decided."""
    return word if word in ("agrees", "higher", "lower") else "none"


def _expected_columns() -> list[tuple[str, str]]:
    """Return name and kind of each column of the differences that were expected, without the verdict."""
    kinds = ("number" if rule == "---:" else "" for rule in difference_tables.RULE)
    return list(zip(difference_tables.HEADER, kinds, strict=True))[:-1]


def _expected_differences(contents: Contents) -> list[dict[str, Any]]:
    """Return the texts of the differences that were expected."""
    lines = difference_tables.expected_lines(contents)
    return [
        {"texts": texts, "verdict": word, "sign": SIGNS[word], "verdict_class": _verdict_class(word)}
        for (*texts, _), word in zip(lines, (found.word for found in contents.expected_differences), strict=True)
    ]


def _run(run: Run) -> dict[str, Any]:
    predictions = len(run.accuracies) * run.protocol["n_way"] * run.protocol["n_query"]
    originals = [formula(run.accuracies, predictions) for formula in stats.ORIGINAL_INTERVALS.values()]
    return {
        "seed": run.entry.seed,
        "accuracy": f"{100 * run.estimate.mean:.2f}",
        "ci95": f"{100 * run.estimate.ci95:.2f}",
        "originals": [f"{100 * value:.2f}" for value in originals],
        "unconverged": run.unconverged,
        "residual": "–" if run.max_kkt_residual is None else f"{run.max_kkt_residual:.1e}",
    }


def _settings(cell: Cell) -> list[tuple[str, str]]:
    """Return every setting behind a number, as (name, text)."""
    protocol = cell.row.protocol
    train = protocol["train"]
    parts = [(part, train[part]) for part in ("backbone", "learner", "recipe")]
    listed = [(f"{part}.{name}", _text(value)) for part, values in parts for name, value in values.items()]
    names = ("split", "n_way", "n_query", "episodes", "evaluate_seed", "batch_norm", "data_hash", "episodes_hash")
    return [*listed, *((name, _text(protocol[name])) for name in names), ("command", cell.row.entry.command)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _number(number: Published) -> dict[str, Any]:
    """Return the texts of a published number."""
    protocol = number.protocol
    words = [
        "single model" if protocol.selection == "single" else "ensemble",
        f"batch norm {protocol.batch_norm}",
        f"trained on {protocol.train_split}",
        f"interval over {protocol.interval}" if number.ci95_pct is not None else "no interval",
    ]
    return {
        "dataset": number.dataset,
        "target": number.target,
        "shot": number.shot,
        "method": number.method,
        "printed_backbone": number.printed_backbone,
        "value": number.text,
        "cited": number.cited,
        "version": number.source.version,
        "address": number.source.address,
        "protocol": ", ".join(words),
        "unread": protocol.confirmed == "unread",
        "reading": ", with the settings of the authors' program" if number.reading == "program" else "",
        "time_ms": number.time_ms,
        "note": protocol.note,
    }


def _published_for(contents: Contents) -> list[Published]:
    """Return all published numbers of the report's data sets and targets, each once."""
    places = {(cell.row.entry.dataset, cell.row.entry.target) for cell in contents.cells}
    return [
        number
        for number in published_numbers()
        if number.reading == "paper" and (number.dataset, number.target) in places
    ]


def _sections(pictures: Sequence[Picture], figures: Path) -> list[dict[str, Any]]:
    """Collect the figures of the page under their headings."""
    sections = []
    for title in dict.fromkeys(picture.section for picture in pictures if picture.section):
        embedded = [_embedded(picture, figures) for picture in pictures if picture.section == title]
        sections.append({"id": title.lower().replace(" ", "-"), "title": title, "pictures": embedded})
    return sections


def _embedded(picture: Picture, figures: Path) -> dict[str, Any]:
    """Return a figure as a data URL of its SVG."""
    svg = (figures / f"{picture.name}.svg").read_text(encoding="utf-8")
    width = float(svg.split('width="', 1)[1].partition("pt")[0])
    return {
        "source": f"data:image/svg+xml,{quote(svg.strip(), safe=SAFE_IN_URL)}",
        "caption": picture.caption,
        "width": round(PIXELS_PER_POINT * width),
    }
