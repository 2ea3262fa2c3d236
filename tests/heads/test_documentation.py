"""The examples in the docstrings of the heads give what they show."""

import doctest
import importlib

import pytest

from fewshot.heads import HEADS

MODULES = ["fewshot.heads", *sorted(part.module for part in HEADS.values() if part.module.startswith("fewshot.heads"))]


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
    assert result.attempted > 0
