"""Figures of suites that vary one number."""

from typing import Any

import numpy as np
import pytest

from fewshot.files import read_json, write_json
from fewshot.report import stats
from fewshot.report.contents import Contents, read_contents
from fewshot.report.measure import group_rows, read_runs
from fewshot.report.pictures import Picture
from fewshot.report.sweeps import slope_of, sweep_pictures


def pictures_of(maker: Any) -> dict[str, Picture]:
    contents: Contents = read_contents(maker.suite())
    return {picture.name: picture for picture in sweep_pictures(contents)}


def test_training_shots_of_a_learner_are_a_line_per_tested_shot(maker: Any) -> None:
    for learner, gain in (("ridge", 0.01), ("prototype", 0.0)):
        for shot in (15, 1, 5):
            recipe = {"n_shot": shot}
            maker.add(learner, 0.5 + gain * shot, recipe=recipe, recipe_name=f"shot{shot}", shots=(1, 5))
    maker.add("svm", 0.6)  # one value is no line

    found = pictures_of(maker)

    assert found.keys() == {"training_shot"}
    label, ticks, (panel,) = found["training_shot"].data
    assert (label, ticks) == ("support images per class in training", ("1", "5", "15"))
    assert [line.name for line in panel.lines] == [
        *("ridge, 1-shot", "ridge, 5-shot", "prototype, 1-shot", "prototype, 5-shot")
    ]
    ridge = panel.lines[0]
    assert ridge.places == (0, 1, 2)
    assert ridge.means[2] - ridge.means[0] == pytest.approx(14, abs=2)
    assert "percentage points per shot: ridge, 1-shot +0.98 ± 0.11;" in found["training_shot"].caption
    assert found["training_shot"].figure.axes


def test_trainings_that_differ_in_something_else_are_no_line(maker: Any) -> None:
    for shot in (1, 5, 15):
        recipe = {"n_shot": shot, "learning_rate": 0.1 * shot}
        maker.add("ridge", 0.5, recipe=recipe, recipe_name=f"shot{shot}")

    assert not pictures_of(maker)


def test_the_optimum_comes_after_the_last_iteration(maker: Any) -> None:
    settings = {"solver": "exact", "max_iterations": 15}
    for iterations in (None, 1, 3):
        entry = maker.add("svm", 0.6, learner_settings=settings, recipe_name=f"iterations{iterations}", shots=(5,))
        if iterations:
            changes = {"head_settings": {"solver": "truncated", "max_iterations": iterations}}
            write_json(entry.evaluation, {**read_json(entry.evaluation), "changes": changes})

    _, ticks, (panel,) = pictures_of(maker)["qp_iterations"].data

    assert ticks == ("1", "3", "optimum")
    assert panel.lines[0].places == (0, 1, 2)


def test_filters_are_a_line(maker: Any) -> None:
    for filters in (16, 64, 256):
        maker.add("ridge", 0.6, backbone={"name": "conv4", "filters": filters}, recipe_name=f"filters{filters}")

    assert pictures_of(maker)["filters"].data[1] == ("16", "64", "256")


def test_the_slope_of_two_points_is_their_paired_difference(maker: Any) -> None:
    rows = []
    for shot in (1, 5):
        entries = [
            maker.add("ridge", 0.5 + shot / 100, seed=seed, recipe_name=f"shot{shot}", shots=(1,)) for seed in (0, 1, 2)
        ]
        rows += group_rows([run for entry in entries for run in read_runs(entry)])

    slope = slope_of(list(zip((1, 5), rows, strict=True)))

    difference = stats.paired_difference(rows[1].accuracies, rows[0].accuracies)
    assert slope.mean == pytest.approx(difference.mean / 4)
    assert slope.ci95 == pytest.approx(difference.ci95 / 4)
    assert not np.isnan(slope.ci95)
