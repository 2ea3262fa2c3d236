"""Files next to the report's code: its key covers them, and the expected numbers fit the default suite."""

import shutil
from pathlib import Path

import pytest

import fewshot.workflow.plan
from fewshot.experiments.reader import read_params
from fewshot.report.measure import settings_hash
from fewshot.report.published import expected_numbers
from fewshot.workflow.plan import REPORT_DIR, REPORT_TEXTS, make_plan

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def test_the_key_changes_with_the_expected_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = read_params(SHIPPED)
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


def test_every_experiment_of_the_default_suite_has_expected_numbers() -> None:
    plan = make_plan(read_params(SHIPPED), "quickstart")
    known = {number.settings_hash for number in expected_numbers()}
    assert {job.name for job in plan.train if settings_hash(job.settings) not in known} == set()
