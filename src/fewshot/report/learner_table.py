"""The table of the page, as the papers print it: one row per learner, its shots side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from fewshot.progress import duration
from fewshot.report.contents import Block, Cell, Contents, Line
from fewshot.report.measure import Row, what_was_tested
from fewshot.report.runtimes import training_facts


def learner_tables(contents: Contents, numbers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one table per data set and target.

    Args:
        contents: of the report.
        numbers: the texts of each cell of the report, in order; the rows refer to them.
    """
    texts = {id(cell): number for cell, number in zip(contents.cells, numbers, strict=True)}
    return [_table(block, texts) for block in contents.blocks]


def chance_pct(row: Row) -> float:
    """Return the accuracy of guessing, percent."""
    return 100 / row.protocol["n_way"]


def _table(block: Block, texts: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    rows = [_row(line, block.shots, texts) for line in block.lines]
    return {
        "title": block.title,
        "shots": block.shots,
        "counterpart": block.counterpart if block.has_published else "",
        "chance": f"{chance_pct(block.cells[0].row):.2f}",
        "rows": rows,
        "backbones": len({row["backbone"] for row in rows}) > 1,
        "backbone": rows[0]["backbone"],
    }


def _row(line: Line, shots: Sequence[int], texts: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    first = next(iter(line.cells.values()))
    shown = {shot: texts[id(line.cells[shot])] if shot in line.cells else None for shot in shots}
    known = [number for number in shown.values() if number]
    return {
        "learner": first.row.entry.learner.partition(" (")[0],
        "changed": what_was_changed(first),
        "backbone": line.backbone,
        "cells": shown,
        "shown_shots": [number["shot"] for number in known],
        "words": [number["word"] for number in known],
        "first": known[0],
        **_training(first.row),
    }


def what_was_changed(cell: Cell) -> str:
    """Return what tells a row from the registered learner: settings, recipe, what was changed in the test."""
    inside = cell.label.partition(" (")[2].removesuffix(")").replace("; ", ", ")
    ensemble = ["ensemble of checkpoints"] if cell.row.selection == "ensemble" else []
    return ", ".join([*([inside] if inside else []), *what_was_tested(cell.row), *ensemble])


def _training(row: Row) -> dict[str, Any]:
    """Return parameters of the model and mean time of its trainings, as numbers to sort by and as texts."""
    facts = [training_facts(run.entry) for run in row.runs]
    parameters = [fact["parameters"] for fact in facts if "parameters" in fact]
    seconds = [fact["seconds"] for fact in facts if "seconds" in fact]
    mean = sum(seconds) / len(seconds) if seconds else None
    return {
        "parameters": parameters[0] if parameters else "",
        "parameters_text": f"{parameters[0]:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if parameters else "–",
        "seconds": "" if mean is None else round(mean, 1),
        "time_text": duration(mean) if mean is not None and row.is_trained else "–",
    }
