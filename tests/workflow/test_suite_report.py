"""How the report names the components of a suite."""

from fewshot.experiments.params import Params
from fewshot.settings import parse_as
from fewshot.workflow.plan import make_plan
from fewshot.workflow.suite_report import suite_report


def shown_learners(tiny_params, learners: list[str]) -> list[str]:
    values = tiny_params(learner=learners)
    values["learners"] = {"wide": {"base": "ridge", "ridge": 5.0}, "narrow": {"base": "ridge", "ridge": 500.0}}
    plan = make_plan(parse_as(Params, values, where=""), "tiny")
    return [entry.learner for entry in suite_report(plan).entries]


def test_component_is_shown_with_the_settings_that_differ_from_its_defaults(tiny_params) -> None:
    assert shown_learners(tiny_params, ["wide", "narrow"]) == ["ridge (ridge 5.0)", "ridge (ridge 500.0)"]


def test_component_with_its_defaults_is_shown_by_its_name(tiny_params) -> None:
    assert shown_learners(tiny_params, ["prototype", "ridge"]) == ["prototype", "ridge"]
