"""The examples in the docstrings give what they show."""

import doctest
import importlib
import pkgutil

import pytest

import fewshot.solvers as solvers

MODULES = sorted(module.name for module in pkgutil.iter_modules(solvers.__path__))
DOORS = {"box", "certificate", "multiclass_svm", "weston_watkins"}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"{solvers.__name__}.{name}"))
    assert result.failed == 0
    assert (result.attempted > 0) == (name in DOORS)
