"""The tables: records of results.csv and runs.csv, metrics.json, results.md and the text for a terminal."""

from collections.abc import Iterable
from typing import Any

from fewshot.experiments.params import Report
from fewshot.report import difference_tables, stats
from fewshot.report.contents import Block, Cell, Contents
from fewshot.report.measure import Row, Run, what_was_tested
from fewshot.report.text import aligned, decimal, pipes, signed_points


def percent(cell: Cell) -> str:
    """Return "82.10 ± 0.61"."""
    return f"{cell.accuracy_pct:.2f} ± {cell.ci95_pct:.2f}"


def protocol_text(row: Row) -> str:
    """Return one line describing how a number was obtained."""
    protocol, recipe = row.protocol, row.recipe
    devices = recipe.get("devices", 1)
    inductive = "transductive" if protocol["batch_norm"] == "transductive" else "inductive"
    words = [
        inductive,
        f"batch norm {protocol['batch_norm']}",
        *([f"trained on {devices} devices, batch norm per device"] if devices > 1 else []),
        "single model" if row.selection == "single" else "ensemble of checkpoints",
        f"trained on {recipe['train_split']}",
        f"{len(row.runs[0].accuracies)} episodes",
        f"{protocol['n_query']} queries per class",
        f"interval over {row.interval}",
        *what_was_tested(row),
        *([row.entry.seen] if row.entry.seen else []),
    ]
    return ", ".join(words)


def _identity(row: Row) -> dict[str, Any]:
    entry, train = row.entry, row.protocol["train"]
    return {
        "train_dataset": entry.dataset,
        "target": entry.target,
        "backbone": entry.backbone,
        "backbone_name": train["backbone"]["name"],
        "learner": entry.learner,
        "learner_name": train["learner"]["name"],
        "recipe": entry.recipe,
        "variant": entry.variant,
        "train_split": row.recipe["train_split"],
        "train_shot": row.recipe.get("n_shot"),
        "way": row.protocol["n_way"],
        "shot": row.shot,
        "image_size": row.recipe["image_size"],
        "selection": row.selection,
        "batch_norm": row.protocol["batch_norm"],
        "solver": row.tested_learner.get("solver", "closed form" if _is_closed_form(row) else "none"),
        "precision": row.recipe["precision"],
    }


def _is_closed_form(row: Row) -> bool:
    learner = row.tested_learner
    return learner.get("head", learner["name"]) in ("prototype", "cosine", "ridge", "r2d2")


def result_record(cell: Cell) -> dict[str, Any]:
    """Return a row of results.csv: one group of seeds with one target, shot and selection."""
    row, number, gap = cell.row, cell.verdict.number, cell.verdict.difference
    runs = stats.run_deviation(row.accuracies)
    return {
        "experiment": row.entry.group,
        **_identity(row),
        "seeds": len(row.runs),
        "episodes": len(row.runs[0].accuracies),
        "accuracy_pct": decimal(cell.accuracy_pct),
        "ci95_pct": decimal(cell.ci95_pct),
        "interval": row.interval,
        "ci95_episodes_pct": decimal(100 * stats.over_episodes(row.accuracies).ci95),
        "ci95_seeds_pct": decimal(100 * stats.over_seeds(row.accuracies).ci95),
        "run_sd_pct": decimal(100 * runs.std_error if runs else None),
        "mark": cell.mark,
        "published_pct": decimal(number.accuracy_pct if number else None, 2),
        "published_ci95_pct": decimal(number.ci95_pct if number else None, 2),
        "published_source": number.cited if number else "",
        "published_confirmed": number.protocol.confirmed if number else "",
        "difference_pct": decimal(100 * gap.mean if gap else None),
        "difference_ci95_pct": decimal(100 * gap.ci95 if gap else None),
        "verdict": cell.verdict.word,
        "verdict_p_holm": decimal(cell.verdict.p_value),
        "verdict_reasons": "; ".join(cell.verdict.reasons),
        "protocol": protocol_text(row),
        "unconverged": sum(run.unconverged for run in row.runs),
        "settings_hash": row.settings_hash,
        "data_hash": row.protocol["data_hash"],
        "episodes_hash": row.runs[0].episodes_hash,
    }


def run_record(run: Run) -> dict[str, Any]:
    """Return a row of runs.csv: one trained model with one target, shot and selection."""
    predictions = len(run.accuracies) * run.protocol["n_way"] * run.protocol["n_query"]
    originals = {
        f"ci95_{name}_pct": decimal(100 * formula(run.accuracies, predictions))
        for name, formula in stats.ORIGINAL_INTERVALS.items()
    }
    return {
        "experiment": run.entry.experiment,
        "group": run.entry.group,
        "seed": run.entry.seed,
        **_identity(Row((run,))),
        "episodes": len(run.accuracies),
        "accuracy_pct": decimal(100 * run.estimate.mean),
        "ci95_pct": decimal(100 * run.estimate.ci95),
        **originals,
        "unconverged": run.unconverged,
        "max_kkt_residual": "" if run.max_kkt_residual is None else f"{run.max_kkt_residual:.3g}",
        "key": run.protocol["key"],
        "train_key": run.protocol["train_key"],
        "data_hash": run.protocol["data_hash"],
        "episodes_hash": run.episodes_hash,
    }


def metrics(cells: Iterable[Cell]) -> dict[str, dict[str, dict[str, float]]]:
    """Return group -> "5shot" -> accuracy and ci95, 0..1, for `dvc metrics`.

    Results on another target are named "group@target", those of an ensemble "5shot_ensemble".
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for cell in cells:
        entry, row = cell.row.entry, cell.row
        group = entry.group if entry.target == entry.dataset else f"{entry.group}@{entry.target}"
        shot = f"{row.shot}shot" if row.selection == "single" else f"{row.shot}shot_{row.selection}"
        values = {"accuracy": row.estimate.mean, "ci95": row.estimate.ci95}
        table.setdefault(group, {})[shot] = {name: round(value, 6) for name, value in values.items()}
    return table


MARKS = {"best": "**{}**", "tied": "{} †", "": "{}"}
LEGEND = (
    "Accuracy in percent ± half width of the 95 % interval. Bold: best in its column; †: not significantly worse "
    "(paired on the same episodes, Holm-corrected, 5 %)."
)


def markdown(contents: Contents) -> str:
    """Return results.md: one table per data set and target, published numbers and verdicts, then the notes.

    Its headings are of the third level, so that other documents can include it.
    """
    notes = Notes()
    parts = [f"Suite `{contents.suite.suite}`. {LEGEND}"]
    parts += [_markdown_block(block, contents.suite.settings, notes) for block in contents.blocks]
    parts += notes.lines
    if contents.expected_differences:
        table = pipes([difference_tables.HEADER, difference_tables.RULE, *difference_tables.expected_lines(contents)])
        parts += [f"### {difference_tables.TITLE}", table, difference_tables.LEGEND]
    if contents.missing:
        names = "\n".join(f"- `{entry.experiment}` on {entry.target}: `{entry.command}`" for entry in contents.missing)
        parts.append(f"### Missing\n\nThis table is partial. Still missing:\n\n{names}")
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block, settings: Report, notes: "Notes") -> str:
    compared, behind = 3 if block.has_published else 0, int(settings.versus_best)
    header, rule = ["Backbone", "Learner"], ["---", "---"]
    for shot in block.shots:
        header += [f"{shot}-shot", *["vs. best"][:behind], *[block.counterpart, "difference", "verdict"][:compared]]
        rule += ["---:", *["---:"][:behind], *["---:", "---:", "---"][:compared]]
    body = []
    for line in block.lines:
        body.append([line.backbone, line.label])
        for shot in block.shots:
            cell = line.cells.get(shot)
            ours, *published = _markdown_cell(cell, notes)
            body[-1] += [ours, *[versus_best_text(cell)][:behind], *published[:compared]]
    return "\n\n".join([f"### {block.title}", pipes([header, rule, *body])])


def _markdown_cell(cell: Cell | None, notes: "Notes") -> list[str]:
    """Return accuracy, published number, difference, verdict."""
    if cell is None:
        return ["", "", "", ""]
    ours = MARKS[cell.mark].format(percent(cell))
    if cell.verdict.number is None:
        return [ours, "", "", ""]
    verdict = f"{cell.verdict.text}{notes.sign(cell.verdict.notes)}"
    return [ours, published_text(cell), difference_text(cell), verdict]


def versus_best_text(cell: Cell | None) -> str:
    """Return the paired difference from the best row, "-1.20 ± 0.40, p = 0.003"; "" for the best row."""
    gap = cell.from_best if cell else None
    if gap is None:
        return ""
    p_value = "p < 0.001" if gap.p_value < 0.001 else f"p = {gap.p_value:.3f}"
    return f"{signed_points(gap.estimate)}, {p_value}"


class Notes:
    """Numbered notes on the tables of a suite, each once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def sign(self, texts: Iterable[str]) -> str:
        """Return the numbers of some notes, " (1, 3)"; "" without any."""
        numbers = sorted(self._numbers.setdefault(text, len(self._numbers) + 1) for text in texts)
        return f" ({', '.join(map(str, numbers))})" if numbers else ""

    @property
    def lines(self) -> list[str]:
        """All notes, in order, folded up under a line that tells their number; [] without any."""
        if not self._numbers:
            return []
        notes = [f"({number}) {text}." for text, number in self._numbers.items()]
        summary = "Note (1)" if len(notes) == 1 else f"Notes (1) to ({len(notes)})"
        return [f"<details>\n<summary>{summary}</summary>", *notes, "</details>"]


def published_text(cell: Cell) -> str:
    """Return the published number; "" if there is none."""
    return cell.verdict.number.text if cell.verdict.number else ""


def difference_text(cell: Cell) -> str:
    """Return our number minus the published one in percentage points, with its half width; "" if not comparable to any.

    A number of another network has no difference.
    """
    gap = cell.verdict.difference
    return "" if gap is None else signed_points(gap)


def terminal(contents: Contents) -> str:
    """Return the tables for a terminal: aligned columns and one-word verdicts.

    Of the differences that were expected, only those that came out otherwise are listed.
    """
    parts = [_terminal_block(block) for block in contents.blocks]
    legend = "Accuracy in %, ± 95 % interval; * best, † not significantly worse (paired, Holm)."
    if contents.expected_differences:
        legend += f"\n{difference_tables.expected_in_short(contents)}"
        if unexpected := difference_tables.unexpected_lines(contents):
            parts.append(f"{difference_tables.TITLE}\n{aligned([difference_tables.HEADER, *unexpected])}")
    return "\n\n".join([*parts, legend])


def _terminal_block(block: Block) -> str:
    width = 3 if block.has_published else 1
    table = [["backbone", "learner"]]
    for shot in block.shots:
        table[0] += [f"{shot}-shot", block.counterpart, "verdict"][:width]
    for line in block.lines:
        table.append([line.backbone, line.label])
        for shot in block.shots:
            table[-1] += _terminal_cell(line.cells.get(shot))[:width]
    return f"{block.title}\n{aligned(table)}"


def _terminal_cell(cell: Cell | None) -> list[str]:
    if cell is None:
        return ["-", "", ""]
    symbol = {"best": "*", "tied": "†", "": " "}[cell.mark]
    return [f"{percent(cell)} {symbol}", published_text(cell), cell.verdict.text if cell.verdict.number else ""]
