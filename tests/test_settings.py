"""Typed settings from plain values: scalars of numpy and torch are numbers, anything else is refused by name."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import Field

from fewshot.errors import ParamsError
from fewshot.heads import HEADS
from fewshot.registry import find_part
from fewshot.settings import Settings, parse_as


class Example(Settings):
    """Settings with one field of each kind."""

    rate: float = Field(1.0, gt=0)
    steps: int = 1
    fast: bool = False
    sizes: tuple[float, ...] = ()


@pytest.mark.parametrize("rate", [np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), 0.5])
def test_scalars_of_numpy_and_torch_are_numbers(rate):
    assert parse_as(Example, {"rate": rate, "sizes": (rate,)}, where="") == Example(rate=0.5, sizes=(0.5,))


def test_integers_and_truth_values_of_numpy_keep_their_type():
    assert parse_as(Example, {"steps": np.int64(3), "fast": np.bool_(True)}, where="") == Example(steps=3, fast=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rate": np.float32(-1)}, r"^rate: -1.0 is not allowed: it should be greater than 0"),
        ({"rate": np.float32("nan")}, "^rate: nan is not allowed: it should be a finite number"),
        ({"steps": np.float32(0.5)}, "^steps: 0.5 is not allowed"),
        ({"rate": torch.zeros(2)}, r"^rate: tensor\(\[0., 0.\]\) is not allowed: it should be a number, text"),
        ({"rate": 1j}, "^rate: 1j is not allowed"),
        ({"sizes": [1.0, object]}, r"^sizes\[1\]: <class 'object'> is not allowed"),
    ],
)
def test_other_values_are_refused_by_name(values, words):
    with pytest.raises(ParamsError, match=words):
        parse_as(Example, values, where="")


@pytest.mark.parametrize("name", [None, 3, ["svm"], np.array([1])])
def test_a_name_that_is_no_text_is_unknown(name):
    with pytest.raises(ParamsError, match=r"unknown head .*; allowed: prototype, cosine, ridge"):
        find_part("head", name, HEADS)


@pytest.mark.parametrize("package", ["heads", "learners", "backbones", "episodes", "evaluation"])
def test_packages_list_what_they_export_before_it_is_imported(package):
    code = f"import fewshot.{package} as p; assert dir(p) == sorted(p.__all__), dir(p)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
