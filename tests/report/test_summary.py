"""The report in words, from synthetic evaluations."""

from dataclasses import replace
from typing import Any

import pytest

from fewshot.report.contents import read_contents
from fewshot.report.summary import summary


def sentences(maker: Any) -> dict[str, list[str]]:
    return dict(summary(read_contents(maker.suite(), allow_missing=True)))


def test_it_says_what_was_run(maker: Any) -> None:
    for seed in (0, 1):
        maker.add("ridge", 0.6, seed=seed)
        maker.add("r2d2", 0.2, seed=seed, recipe={"epochs": 0}, recipe_name="untrained", history=False)
    assert sentences(maker)["What was run"] == [
        "2 learners, 1 trained and 1 untrained, with 2 training seeds each, trained on glyphs.",
        "Tested on 60 frozen episodes of glyphs: 5-way, 1-shot and 5-shot, 15 queries per class.",
    ]


def test_it_names_the_best_row_and_those_not_worse(maker: Any) -> None:
    maker.add("prototype", 0.5, shots=(5,))
    maker.add("ridge", 0.7, shots=(5,))
    maker.add("svm", 0.7, shots=(5,))
    best = max(read_contents(maker.suite()).cells, key=lambda cell: cell.accuracy_pct)
    other = "svm" if best.label == "ridge" else "ridge"
    found = sentences(maker)
    assert found["What came out"] == [
        f"glyphs, 5-shot: {best.label} is best with {best.accuracy_pct:.2f} ± {best.ci95_pct:.2f} %; not significantly "
        f"worse: {other}. Chance is 20 %."
    ]
    assert found["What differs"] == [
        "glyphs, 5-shot: 2 of 3 pairs of rows differ significantly (paired, Holm-corrected); not different: ridge and "
        "svm."
    ]


def test_it_counts_the_verdicts_and_names_the_deviations(maker: Any) -> None:
    maker.add("prototype", 0.5, dataset="cifar_fs", learner_settings={"divide_by_dimension": False})
    contents = read_contents(maker.suite())
    cells = tuple(
        replace(cell, verdict=replace(cell.verdict, word=word, reasons=()))
        for cell, word in zip(contents.cells, ("lower", "agrees"), strict=True)
    )
    assert dict(summary(replace(contents, cells=cells)))["Against earlier numbers"] == [
        "Of 2 comparable numbers, 1 is lower and 1 agrees.",
        "Significantly lower than its counterpart: prototype, 1-shot.",
    ]


def test_it_counts_the_reasons_why_numbers_are_not_comparable(maker: Any) -> None:
    maker.add("prototype", 0.5, dataset="cifar_fs", learner_settings={"divide_by_dimension": False})
    assert sentences(maker)["What could not be compared"] == [
        "2 numbers not comparable with the closest counterpart: the source's training settings are not known (2)."
    ]


def test_it_says_what_has_no_counterpart(maker: Any) -> None:
    maker.add("ridge", 0.6, dataset="shapes")
    assert sentences(maker)["What could not be compared"] == ["2 numbers without any counterpart."]


@pytest.mark.parametrize("exists", [True, False])
def test_it_says_what_is_missing(maker: Any, exists: bool) -> None:
    if exists:
        maker.add("prototype")
    maker.add("ridge").evaluation.unlink()
    assert "1 evaluation missing." in sentences(maker)["What was run"][-1]
