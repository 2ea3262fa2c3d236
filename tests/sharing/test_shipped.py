"""Models that come with the package."""

import shutil

import numpy as np
import pytest

import fewshot
from fewshot.errors import CheckpointError
from fewshot.sharing.shipped import SHIPPED, shipped_models

NAME = "cifar_fs-conv4"


def pictures(count, level):
    random = np.random.default_rng(level)
    return [random.normal(level, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8) for _ in range(count)]


def test_a_model_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = fewshot.load(NAME)

    answers = model.classify(
        pictures(5, 40) + pictures(5, 220), ["dark"] * 5 + ["light"] * 5, pictures(3, 40) + pictures(3, 220)
    )

    assert answers == ["dark"] * 3 + ["light"] * 3


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SHIPPED / NAME, tmp_path / NAME)
    (tmp_path / NAME / "model.json").write_text("{}")

    with pytest.raises(CheckpointError, match="an export of format"):
        fewshot.load(NAME)


def test_an_unknown_name_lists_those_that_exist():
    with pytest.raises(CheckpointError, match=f"models that come with this package are: .*{NAME}"):
        fewshot.load("cifar_fs-conv5")


@pytest.mark.parametrize("name", shipped_models())
def test_a_model_is_small_and_its_card_names_it(name):
    assert sum(file.stat().st_size for file in (SHIPPED / name).iterdir()) < 2_000_000
    card = (SHIPPED / name / "README.md").read_text(encoding="utf-8")
    assert f'fewshot.load("{name}")' in card
    assert "| cifar_fs | 5 |" in card
