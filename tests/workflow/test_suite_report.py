"""How the report names the components of a suite."""

from fewshot.experiments.params import Params, Report
from fewshot.report.contents import Contents
from fewshot.report.inputs import ReportEntry, SuiteReport
from fewshot.settings import parse_as
from fewshot.workflow.plan import make_plan
from fewshot.workflow.suite_report import suite_report


def entries(tiny_params, learners: list[str]) -> tuple[ReportEntry, ...]:
    values = tiny_params(learner=learners)
    values["learners"] = {
        "wide": {"base": "ridge", "ridge": 5.0},
        "narrow": {"base": "ridge", "ridge": 500.0},
        "wide_too": {"base": "ridge", "ridge": 5.0},
    }
    return suite_report(make_plan(parse_as(Params, values, where=""), "tiny")).entries


def shown_learners(tiny_params, learners: list[str]) -> list[str]:
    return [entry.learner for entry in entries(tiny_params, learners)]


def test_component_is_shown_with_the_settings_that_differ_from_its_defaults(tiny_params) -> None:
    assert shown_learners(tiny_params, ["wide", "narrow"]) == ["ridge (ridge 5.0)", "ridge (ridge 500.0)"]


def test_setting_that_is_recorded_only_if_it_differs_is_shown(tiny_params) -> None:
    values = tiny_params(learner=["constant", "plain"], backbone="conv4_maml")
    values["learners"] = {"constant": {"base": "cxgrad", "contextual": False}, "plain": {"base": "cxgrad"}}
    shown = suite_report(make_plan(parse_as(Params, values, where=""), "tiny")).entries

    assert [entry.learner for entry in shown] == ["cxgrad (contextual False)", "cxgrad"]


def test_component_with_its_defaults_is_shown_by_its_name(tiny_params) -> None:
    assert shown_learners(tiny_params, ["prototype", "ridge"]) == ["prototype", "ridge"]


def test_labels_of_one_training_have_their_own_rows_and_one_curve(tiny_params) -> None:
    wide, too, narrow = rows = entries(tiny_params, ["wide", "wide_too", "narrow"])

    assert [entry.group for entry in rows] == [
        f"glyphs-conv4-{label}-quick" for label in ("wide", "wide_too", "narrow")
    ]
    assert wide.train_dir == too.train_dir != narrow.train_dir
    assert wide.evaluation != too.evaluation
    contents = Contents(SuiteReport("tiny", "", rows, Report()), (), (), (), (), missing=())
    assert contents.trainings == (wide, narrow)
