"""The key of a report covers the files beside the code: printed and expected numbers, and the page's text."""

import shutil
from pathlib import Path

import pytest

import fewshot.workflow.plan
from fewshot.experiments.params import read_params
from fewshot.workflow.plan import REPORT_DIR, REPORT_TEXTS, make_plan


def test_another_expected_number_gives_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = read_params(Path(__file__).parents[2] / "params.yaml")
    beside = tmp_path / "report"
    beside.mkdir()
    for file in REPORT_DIR.iterdir():
        if file.suffix in REPORT_TEXTS:
            shutil.copy(file, beside)
    before = make_plan(params, "quickstart").report_key
    monkeypatch.setattr(fewshot.workflow.plan, "REPORT_DIR", beside)
    assert make_plan(params, "quickstart").report_key == before
    (beside / "expected.yaml").write_text("changed")
    assert make_plan(params, "quickstart").report_key != before
