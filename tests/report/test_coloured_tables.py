"""Tables of the page whose cells are coloured by their numbers."""

import json
from typing import Any

import pytest

from fewshot.report.coloured_tables import MAX_ROWS, _shade, difference_table, listed_families
from fewshot.report.contents import read_contents


def contrast(style: str) -> float:
    """Return the contrast of text and background by WCAG 2."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    background, text = (part.split(":")[1] for part in style.split(";"))
    low, high = sorted((luminance(background), luminance({"#000": "#000000", "#fff": "#ffffff"}[text])))
    return (high + 0.05) / (low + 0.05)


def test_insignificant_differences_are_grey_and_controls_do_not_set_the_colours(maker: Any) -> None:
    for learner, accuracy in (("prototype", 0.6), ("ridge", 0.7), ("svm", 0.7)):
        maker.add(learner, accuracy, shots=(5,))
    maker.add("r2d2", 0.2, shots=(5,), recipe={"epochs": 0}, recipe_name="untrained", history=False)
    contents = read_contents(maker.suite())
    (family,) = listed_families(contents)
    table = difference_table(family, contents.labels, contents.episodes_note)
    cells = {row["name"].split()[0]: row["cells"] for row in table["rows"]}
    place = {name: index for index, name in enumerate(cells)}
    assert cells["ridge"][place["svm"]]["style"] == ""
    assert float(cells["ridge"][place["prototype"]]["text"]) == pytest.approx(10, abs=4)
    assert cells["ridge"][place["ridge"]] is None
    strongest = _shade("PuOr", 1.0)
    found = {cells[name][place["prototype"]]["style"] for name in ("ridge", "svm")}
    assert strongest in found
    assert cells["ridge"][place["r2d2"]]["style"] == strongest


def test_rows_on_different_episodes_are_not_in_one_table(maker: Any) -> None:
    for learner in ("prototype", "ridge", "r2d2", "svm"):
        entry = maker.add(learner, shots=(5,))
        if learner in ("r2d2", "svm"):
            evaluation = json.loads(entry.evaluation.read_text())
            evaluation["results"][0]["episodes_hash"] = "of another list"
            entry.evaluation.write_text(json.dumps(evaluation))
    assert [len(family.rows) for family in listed_families(read_contents(maker.suite()))] == [2, 2]


def test_a_large_family_is_left_to_the_file(maker: Any) -> None:
    for number in range(MAX_ROWS + 1):
        maker.add("ridge", recipe_name=f"recipe{number}", shots=(5,), history=False, predictions=False)
    contents = read_contents(maker.suite())
    assert len(contents.comparisons) == 1
    assert listed_families(contents) == []


@pytest.mark.parametrize("colormap", ["PuOr", "cividis"])
def test_every_shade_is_readable(colormap: str) -> None:
    assert min(contrast(_shade(colormap, step / 100)) for step in range(101)) >= 4.5
