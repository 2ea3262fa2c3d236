"""A copy of the package whose source a test may edit; keys are then those of the copy."""

import shutil
from pathlib import Path

import pytest

from fewshot.workflow import identity

BY_CONTENT = ("_parsed", "_import_statements", "_meaning")  # never out of date
CACHES = [value for name, value in vars(identity).items() if hasattr(value, "cache_clear") and name not in BY_CONTENT]


@pytest.fixture
def forget_source():
    """Return a function that makes the next plan read the source again, as a new process would."""

    def forget():
        for cached in CACHES:
            cached.cache_clear()

    return forget


@pytest.fixture
def source(tmp_path, monkeypatch, forget_source):
    """Return a copy of the package that a test may edit; keys are computed from the copy."""
    copy = tmp_path / "fewshot"
    shutil.copytree(Path(identity.PACKAGE_DIR), copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "PACKAGE_DIR", copy)
    forget_source()
    yield copy
    forget_source()


@pytest.fixture
def edit(source, forget_source):
    """Return a function that replaces a text once in a file of the copied package, or appends text to it."""

    def change(name, old, new=None):
        path = source / name
        text = path.read_text(encoding="utf-8")
        assert new is None or old in text
        path.write_text(text + old if new is None else text.replace(old, new, 1), encoding="utf-8")
        forget_source()

    return change
