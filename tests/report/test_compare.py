"""Differences between rows: of variants training by training, of learners as independent trainings."""

from dataclasses import replace
from typing import Any

import pytest

from fewshot.report import stats
from fewshot.report.compare import compare_rows
from fewshot.report.inputs import ReportEntry
from fewshot.report.measure import Row, group_rows, read_runs

SEEDS = range(3)
RUN_EFFECTS = (-0.05, 0.0, 0.05)


def entries(maker: Any, learner: str, accuracy: float) -> list[ReportEntry]:
    """Write the evaluations of three trainings, which differ by five points."""
    levels = [accuracy + effect for effect in RUN_EFFECTS]
    return [maker.add(learner, level, seed=seed, shots=(5,)) for seed, level in zip(SEEDS, levels, strict=True)]


def row(found: list[ReportEntry]) -> Row:
    (row,) = group_rows(run for entry in found for run in read_runs(entry))
    return row


def test_two_tests_of_the_same_trainings_are_compared_training_by_training(maker: Any) -> None:
    trained = entries(maker, "ridge", 0.6)
    variant = [
        replace(entry, train_dir=other.train_dir)
        for entry, other in zip(entries(maker, "svm", 0.58), trained, strict=True)
    ]
    (comparison,) = compare_rows([row(trained), row(variant)])
    found = comparison.difference(0, 1)
    assert found.estimate == stats.difference_of_same_trainings(row(trained).accuracies, row(variant).accuracies)
    assert found.estimate.ci95 < 0.02


def test_two_learners_are_compared_as_independent_trainings(maker: Any) -> None:
    ours, theirs = row(entries(maker, "ridge", 0.6)), row(entries(maker, "svm", 0.58))
    (comparison,) = compare_rows([ours, theirs])
    found = comparison.difference(0, 1)
    assert found.estimate == stats.paired_difference(ours.accuracies, theirs.accuracies)
    assert found.estimate.ci95 == pytest.approx(0.05 * 4.303 * (2 / 3) ** 0.5, rel=0.2)


def test_where_one_row_lacks_a_training_the_common_ones_are_compared(maker: Any) -> None:
    trained = entries(maker, "ridge", 0.6)
    variant = [
        replace(entry, train_dir=other.train_dir)
        for entry, other in zip(entries(maker, "svm", 0.58), trained, strict=True)
    ]
    (comparison,) = compare_rows([row(trained), row(variant[1:])])
    found = comparison.difference(0, 1).estimate
    assert found == stats.difference_of_same_trainings(row(trained[1:]).accuracies, row(variant[1:]).accuracies)
