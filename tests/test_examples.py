"""The examples in docstrings give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import fewshot

PACKAGE = Path(fewshot.__file__).parent


def modules_with_examples():
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            yield ".".join(("fewshot", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_examples_give_what_they_show(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)

    assert found.attempted > 0
    assert found.failed == 0
