"""Variants of an evaluation: each is an experiment of its own that shares the training."""

import pytest

from fewshot.errors import ParamsError
from fewshot.experiments.matrix import suite_experiments, with_protocol
from fewshot.experiments.params import Params
from fewshot.learners.settings import EvaluationSettings
from fewshot.settings import parse_as
from fewshot.workflow.plan import make_plan

VARIANTS = {
    "iterations_3": {"head_settings": {"solver": "truncated", "max_iterations": 3}},
    "ridge_head": {"head": "ridge"},
    "steps_2": {"inner_steps": 2},
    "augmented": {"augmented_support": 5},
}


@pytest.fixture
def planned(tiny_params, project):
    """Return a function that plans a block of experiments; its keywords are those of `tiny_params`."""

    def plan(*arguments, **block):
        values = {**tiny_params(*arguments, **block), "variants": VARIANTS}
        return make_plan(parse_as(Params, values, where=""), "tiny")

    return plan


def test_variants_share_a_training_and_the_frozen_episodes(planned):
    plan = planned("svm", variants=["as_trained", "iterations_3", "ridge_head"])
    assert [experiment.name for experiment in plan.experiments] == [
        "glyphs-conv4-svm-quick-s0",
        "glyphs-conv4-svm-quick-iterations_3-s0",
        "glyphs-conv4-svm-quick-ridge_head-s0",
    ]
    assert [job.name for job in plan.train] == ["glyphs-conv4-svm-quick-s0"]
    assert len({job.key for job in plan.evaluate}) == 3
    assert len({job.episodes for job in plan.evaluate}) == 1


def test_a_variant_changes_neither_the_training_key_nor_other_evaluations(planned):
    plain, varied = planned("svm"), planned("svm", variants=["as_trained", "iterations_3"])
    assert varied.train[0].key == plain.train[0].key
    assert varied.evaluate[0].key == plain.evaluate[0].key


def test_the_key_of_a_variant_holds_its_settings_and_the_code_of_its_head(planned):
    _, job = planned("prototype", variants=["as_trained", "ridge_head"]).evaluate
    assert job.settings["changes"] == {"head": "ridge"}
    assert "fewshot.heads.ridge" in job.identity["modules"]
    assert "fewshot.heads.ridge" not in job.train.identity["modules"]


def test_variants_of_the_test_protocol_apply_to_every_block_without_its_own(planned):
    assert [job.test_variant for job in planned("svm", evaluate={"variants": ["ridge_head"]}).experiments] == [
        "ridge_head"
    ]


@pytest.mark.parametrize(
    ("learner", "backbone", "variant", "message"),
    [
        ("ridge", "conv4", "iterations_3", "variant 'iterations_3': .*solver"),
        ("maml", "conv4_maml", "ridge_head", "variant 'ridge_head': .*another head"),
        ("svm", "conv4", "steps_2", "variant 'steps_2': .*no inner loop"),
        ("svm", "conv4", "augmented", "augmented_support repeats the augmentation of the training, but recipe 'quick'"),
        ("svm", "conv4", "iteration_3", "variants: unknown variant 'iteration_3'.*Did you mean 'iterations_3'"),
    ],
)
def test_a_variant_that_does_not_fit_is_refused_before_any_job(planned, learner, backbone, variant, message):
    with pytest.raises(ParamsError, match=rf"suites.tiny\[0\].*{message}"):
        planned(learner, backbone, variants=[variant])


def test_the_name_for_no_changes_is_reserved(tiny_params):
    params = parse_as(Params, {**tiny_params(), "variants": {"as_trained": {"head": "ridge"}}}, where="")
    with pytest.raises(ParamsError, match=r"variants\.as_trained"):
        suite_experiments(params, "tiny")


def test_a_finished_training_can_be_given_any_protocol(tiny_params):
    params = parse_as(Params, {**tiny_params("svm"), "variants": VARIANTS}, where="")
    (experiment,) = suite_experiments(params, "tiny")
    protocol = {"shots": (1, 2), "n_way": 4, "targets": ("glyphs", "omniglot"), "variants": ("iterations_3",)}
    (tested,) = with_protocol(params, experiment, protocol)
    assert tested.train_settings() == experiment.train_settings()
    assert (tested.shots, tested.evaluate.n_way, tested.changes) == (
        (1, 2),
        4,
        EvaluationSettings(**VARIANTS["iterations_3"]),
    )
    assert [target.label for target in tested.targets] == ["glyphs", "omniglot"]
    with pytest.raises(ParamsError, match="n_way 500"):
        with_protocol(params, experiment, {"n_way": 500})


def test_an_unknown_key_of_a_variant_is_answered_with_those_of_variants(tiny_params):
    with pytest.raises(ParamsError, match=r"variants\.r10\.heads: unknown key 'heads'; allowed: head, .*inner_steps"):
        parse_as(Params, {**tiny_params(), "variants": {"r10": {"heads": "ridge"}}}, where="")
