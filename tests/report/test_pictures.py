"""Figures are drawn once, and again when anything they depend on changes."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from fewshot.report import drawings, pictures, style
from fewshot.report.contents import read_contents
from fewshot.report.drawings import Accuracies, AccuracyPanel, Mark, draw_accuracy
from fewshot.report.figures import accuracy, learning_curves
from fewshot.report.pictures import Picture, minified, save_pictures

PANEL = AccuracyPanel("glyphs", 20.0, (("ridge", (Mark(1, 50.0, 1.0, 50.0, 1.0), Mark(5, 60.0, 1.0, 60.0, None))),))


def picture(mean: float = 50.0) -> Picture:
    (name, (first, second)), *_ = PANEL.rows
    rows = ((name, (replace(first, mean=mean), second)),)
    data = Accuracies((replace(PANEL, rows=rows),), (1, 5), "expected")
    return Picture("accuracy", "Accuracy", "caption", draw_accuracy, data)


def drawn(monkeypatch: pytest.MonkeyPatch, shown: Picture, folder: Path, cache: Path) -> bool:
    """Save a figure; return whether it was drawn."""
    calls = []
    draw = pictures._draw
    monkeypatch.setattr(pictures, "_draw", lambda *arguments: (calls.append(arguments), draw(*arguments)))
    folder.mkdir(exist_ok=True)
    save_pictures([shown], folder, cache)
    monkeypatch.setattr(pictures, "_draw", draw)
    return bool(calls)


def test_a_figure_is_drawn_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert drawn(monkeypatch, picture(), tmp_path / "a", tmp_path / "cache")
    assert not drawn(monkeypatch, picture(), tmp_path / "b", tmp_path / "cache")
    for name in ("accuracy.svg", "accuracy.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_figure_is_drawn_again_if_a_number_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert drawn(monkeypatch, picture(), tmp_path / "a", tmp_path / "cache")
    assert drawn(monkeypatch, picture(50.1), tmp_path / "a", tmp_path / "cache")


@pytest.mark.parametrize("changed", ["code", "minifying", "library", "function"])
def test_the_digest_covers_code_and_libraries(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = picture().digest
    if changed == "code":
        monkeypatch.setattr(style, "__file__", drawings.__file__)
    elif changed == "minifying":
        monkeypatch.setattr(pictures, "__file__", drawings.__file__)
    elif changed == "library":
        monkeypatch.setattr(pictures, "version", lambda name: "0")
    shown = replace(picture(), draw=drawings.draw_shots) if changed == "function" else picture()
    assert shown.digest != before


def test_the_digest_covers_the_content_of_arrays() -> None:
    shown = Picture("a", "", "", draw_accuracy, {"values": np.zeros(3)})
    changed = replace(shown, data={"values": np.array([0.0, 0.0, 1.0])})
    assert shown.digest != changed.digest
    assert shown.digest == replace(shown, data={"values": np.zeros(3)}).digest


@pytest.mark.parametrize("module", sorted(Path(drawings.__file__).parent.glob("*drawings.py")), ids=lambda m: m.stem)
def test_drawings_import_nothing_that_the_digest_does_not_cover(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in imported if name and name.startswith("fewshot")}
    assert ours == {"fewshot.report.style"}


def test_a_minified_drawing_has_the_same_elements_and_text(tmp_path: Path) -> None:
    with style.common_style():
        picture().figure.savefig(tmp_path / "full.svg", metadata={"Date": None, "Creator": None})
    full = (tmp_path / "full.svg").read_text(encoding="utf-8")
    small = minified(full)
    before, after = (
        [(node.tag, (node.text or "").strip()) for node in ElementTree.fromstring(text).iter() if "RDF" not in node.tag]
        for text in (full, small)
    )
    kept = [item for item in before if "svg}" in item[0] and "metadata" not in item[0]]
    assert after == kept
    assert len(small) < 0.8 * len(full)


def test_numbers_and_counterparts_of_a_shot_share_a_colour_and_do_not_overlap() -> None:
    (axis,) = picture().figure.axes
    bars = axis.containers
    heights = [bar.lines[0].get_ydata()[0] for bar in bars]
    colors = [bar.lines[0].get_color() for bar in bars]
    assert len(set(heights)) == 4
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert any(line.get_xdata()[0] == 20.0 for line in axis.lines if len(line.get_xdata()) == 2)


def test_learning_curves_show_the_training_loss(maker: Any) -> None:
    maker.add("ridge")
    figure = learning_curves(read_contents(maker.suite())).figure  # type: ignore[union-attr]
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["validation accuracy (%)", "training loss"]
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx([1, 1 / 2, 1 / 3])


def test_the_accuracy_figure_has_the_width_of_a_phone(maker: Any) -> None:
    maker.add("ridge", shots=(1, 5, 20))
    assert accuracy(read_contents(maker.suite()).blocks).figure.get_figwidth() == style.WIDTH
