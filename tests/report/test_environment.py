"""The machine, versions, commit and data of a report."""

import subprocess
from typing import Any

import pytest

from fewshot.report import environment
from fewshot.report.contents import read_contents


def test_it_lists_machine_versions_and_hashes(maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "commit", lambda: "abc")
    monkeypatch.setattr(environment, "training_facts", lambda entry: {"machine.device": "cpu", "machine.threads": 1})
    maker.add("ridge")
    assert environment.environment(read_contents(maker.suite())) == [
        ("commit of the code that wrote this page", "abc"),
        ("device of the trainings", "cpu"),
        ("threads", "1"),
        ("torch", "2"),
        ("SHA-256 of the images of glyphs", "d" * 64),
        ("SHA-256 of its test episodes", "hash-glyphs"),
    ]


def test_code_without_a_repository_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(environment.subprocess, "run", fails)
    assert environment.commit() == "unknown: the code is not in a git repository"
