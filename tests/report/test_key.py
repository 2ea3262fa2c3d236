"""The key of a report covers the files next to the code: published and expected numbers, and the page's text."""

import shutil
from pathlib import Path

import pytest

import fewshot.workflow.plan
from fewshot.experiments.reader import read_params
from fewshot.workflow.plan import REPORT_DIR, REPORT_TEXTS, make_plan


def test_the_key_changes_with_the_expected_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = read_params(Path(__file__).parents[2] / "params.yaml")
    copied = tmp_path / "report"
    copied.mkdir()
    for file in REPORT_DIR.iterdir():
        if file.suffix in REPORT_TEXTS:
            shutil.copy(file, copied)
    before = make_plan(params, "quickstart").report_key
    monkeypatch.setattr(fewshot.workflow.plan, "REPORT_DIR", copied)
    assert make_plan(params, "quickstart").report_key == before
    (copied / "expected.yaml").write_text("changed")
    assert make_plan(params, "quickstart").report_key != before
