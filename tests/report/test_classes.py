"""Accuracy by class, confusion and calibration, on predictions that can be counted by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot.files import read_npz, write_npz
from fewshot.report import write_report
from fewshot.report.classes import (
    _examples,
    advice,
    calibration,
    class_tables,
    confusion,
    gives_probabilities,
    hardest,
    read_predictions,
    tally,
)
from fewshot.report.contents import read_contents


def test_queries_are_counted_by_true_and_predicted_class() -> None:
    classes = np.array([[2, 0], [0, 1]], np.uint8)
    predicted = np.array([[0, 1, 1, 1], [0, 0, 0, 1]], np.uint8)  # two queries of each label
    given, possible = tally(classes, predicted, 3)
    assert given.tolist() == [[4, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert possible.tolist() == [[4, 2, 2], [2, 2, 0], [2, 0, 2]]


def test_accuracy_by_class_agrees_with_the_predictions(maker: Any) -> None:
    entry = maker.add("ridge", 0.7, shots=(5,))
    (found,), _ = read_predictions(read_contents(maker.suite()))
    arrays = read_npz(entry.arrays)
    labels = np.repeat(np.arange(5), 15)
    true = arrays["episode_classes"][:, labels]
    correct = arrays["predictions/5shot"] == labels
    expected = [correct[true == number].mean() for number in range(6)]
    assert found.accuracy == pytest.approx(expected)
    assert found.accuracy[5] == 0


def test_the_hardest_class_comes_first_with_its_images(maker: Any) -> None:
    maker.add("prototype", 0.5, shots=(5,))
    maker.add("ridge", 0.9, shots=(5,))
    found, _ = read_predictions(read_contents(maker.suite()))
    (table,) = class_tables(found)
    assert table.names[0] == "test 5"
    assert table.accuracy.shape == (6, 2)
    assert table.accuracy[0] == pytest.approx([0, 0])
    assert (np.diff(table.accuracy.mean(axis=1)) >= 0).all()
    assert table.examples is not None


def test_an_evaluation_that_drew_fewer_classes_is_shown_beside_the_others(maker: Any) -> None:
    short = maker.add("prototype", 0.5, shots=(5,))
    maker.add("ridge", 0.9, shots=(5,))
    arrays = read_npz(short.arrays)
    without_last = (arrays["episode_classes"] < 5).all(axis=1)
    for name in ("episode_classes", "predictions/5shot"):
        arrays[name] = arrays[name][without_last]
    write_npz(short.arrays, arrays)
    found, _ = read_predictions(read_contents(maker.suite()))
    (table,) = class_tables(found)
    assert table.total == 6
    assert np.isnan(found[0].accuracy).tolist() == [False] * 5 + [True]


def test_a_confusion_without_mistakes_names_no_pair(maker: Any) -> None:
    maker.add("ridge", 1.0, shots=(5,))
    (found,), _ = read_predictions(read_contents(maker.suite()))
    right = replace(found, given=np.diag(found.given.sum(axis=1)))
    assert "Most frequent: none." in confusion(right, np.arange(6)).caption


def test_examples_of_a_class_are_its_own_images(tiny_store: Any) -> None:
    split = tiny_store.split("test")
    small = replace(split, class_sizes=np.minimum(split.class_sizes, 2))
    last = len(small.class_sizes) - 1
    rows = _examples(small, np.array([0, last]))
    assert rows.tolist() == [[0, 1, 1], [2 * last, 2 * last + 1, 2 * last + 1]]


def test_untrained_learners_do_not_decide_which_class_is_hard(maker: Any) -> None:
    maker.add("ridge", 0.9, shots=(5,))
    alone, _ = read_predictions(read_contents(maker.suite()))
    maker.add("r2d2", 0.2, shots=(5,), recipe={"epochs": 0}, recipe_name="untrained", history=False)
    both, _ = read_predictions(read_contents(maker.suite()))
    assert hardest(both).tolist() == hardest(alone).tolist()


def test_confusion_names_the_most_frequent_pairs(maker: Any) -> None:
    maker.add("ridge", 1.0, shots=(5,))
    (found,), _ = read_predictions(read_contents(maker.suite()))
    picture = confusion(found, np.arange(6))
    values = picture.data.percent
    assert np.isnan(values.diagonal()).all()
    assert np.nansum(values[:5]) == 0
    worst = int(np.nanargmax(values[5]))
    assert f"Most frequent: test 5 as test {worst} ({values[5, worst]:.0f} %)" in picture.caption


def test_seeds_are_added_up(maker: Any) -> None:
    maker.add("ridge", 0.7, seed=0, shots=(5,))
    (one,), _ = read_predictions(read_contents(maker.suite()))
    maker.add("ridge", 0.7, seed=1, shots=(5,))
    (two,), _ = read_predictions(read_contents(maker.suite()))
    assert two.given.sum() == 2 * one.given.sum()


def test_an_evaluation_without_predictions_is_named_with_what_to_do(maker: Any, tmp_path: Path) -> None:
    entry = maker.add("ridge", predictions=False)
    found, without = read_predictions(read_contents(maker.suite()))
    assert found == []
    assert advice(without) == [
        {"name": f"{entry.experiment} on glyphs", "folder": entry.evaluation.parent, "command": entry.command}
    ]
    write_report(maker.suite(), tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "stored no predictions: glyphs-conv4-ridge-quick-s0 on glyphs" in text


def test_calibration_compares_confidence_with_accuracy(maker: Any) -> None:
    entry = maker.add("ridge", 0.7, shots=(5,))
    (picture,) = calibration(read_contents(maker.suite()).cells)
    ((title, (line,)),) = picture.data
    correct = read_npz(entry.arrays)["predictions/5shot"] == np.repeat(np.arange(5), 15)
    assert title == "5-shot"
    assert line.confidence == pytest.approx([70])
    assert line.accuracy == pytest.approx([100 * correct.mean()])
    assert line.label == f"ridge, conv4: {abs(70 - 100 * correct.mean()):.1f}"


def test_scores_that_were_not_trained_are_no_probabilities(maker: Any) -> None:
    maker.add("ridge", 0.7, shots=(5,))
    maker.add("r2d2", 0.2, shots=(5,), recipe={"epochs": 0}, recipe_name="untrained", history=False)
    cells = read_contents(maker.suite()).cells
    assert [gives_probabilities(cell.row) for cell in cells] == [True, False]
    (picture,) = calibration(cells)
    assert "Left out, since not trained as probabilities: r2d2 (untrained), conv4." in picture.caption


def test_calibration_is_left_out_if_a_seed_did_not_store_it(maker: Any) -> None:
    maker.add("ridge", 0.7, shots=(5,))
    second = maker.add("ridge", 0.7, shots=(5,), seed=1)
    arrays = {name: v for name, v in read_npz(second.arrays).items() if not name.startswith("calibration/")}
    write_npz(second.arrays, arrays)
    assert list(calibration(read_contents(maker.suite()).cells)) == []
