"""Drawings of a quantity by layer: every network has its own layers, each layer one colour and one legend entry."""

import numpy as np
import pytest

from fewshot.report.adaptation_drawings import ByLayer, draw_by_layer
from fewshot.report.style import wrapped


def panels(figure):
    return {axis.get_title(): {line.get_label(): line.get_color() for line in axis.lines} for axis in figure.axes}


def test_networks_may_differ_in_layers_and_in_those_that_are_adapted():
    head_only = np.full((3, 2, 3), np.nan)
    head_only[:, :, 2] = 1.0
    learners = (("head", head_only), ("five", np.ones((3, 2, 5))), ("two", np.ones((3, 4, 2))))

    figure = draw_by_layer(ByLayer("norm", "log", learners, with_head=True))

    found = panels(figure)
    assert {name: list(lines) for name, lines in found.items() if lines} == {
        "head": ["head"],
        "five": ["conv 1", "conv 2", "conv 3", "conv 4", "head"],
        "two": ["conv 1", "head"],
    }
    assert len({lines["head"] for lines in found.values() if lines}) == 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["conv 1", "conv 2", "conv 3", "conv 4", "head"]


@pytest.mark.parametrize(("high", "labels"), [(5.0, {"2", "3", "5"}), (900.0, {"1", "10", "100"})])
def test_logarithmic_axes_have_plain_numbers(high, labels):
    values = np.geomspace(1.1, high, 6).reshape(1, 3, 2)
    figure = draw_by_layer(ByLayer("norm", "log", (("one", values),), with_head=True))
    figure.canvas.draw()
    shown = {label.get_text() for minor in (False, True) for label in figure.axes[0].get_yticklabels(minor=minor)}
    assert labels <= shown
    assert not any("mathdefault" in text for text in shown)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_ticks_are_whole_numbers(count):
    figure = draw_by_layer(ByLayer("gamma", "linear", (("one", np.ones((2, count, 2))),), with_head=False))
    figure.canvas.draw()
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["conv 1", "conv 2"]


def test_long_titles_are_broken_after_hyphens():
    title = "maml (nu-epochs1-steps_per_epoch2-evaluate_episodes4), conv4_maml (filters 16)"
    lines = wrapped(title, 30).split("\n")
    assert max(map(len, lines)) <= 30
    assert "".join(lines).replace(" ", "") == title.replace(" ", "")
    assert lines[0].endswith("-")
