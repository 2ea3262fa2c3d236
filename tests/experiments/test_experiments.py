"""How blocks, recipes and their bases become experiments."""

import pytest

from fewshot.errors import ParamsError
from fewshot.experiments.matrix import Experiment, suite_experiments
from fewshot.experiments.params import Params
from fewshot.settings import parse_as


@pytest.fixture
def first(tiny_params):
    """Return a function that returns the first experiment of a suite with changed block and recipes."""

    def experiment(recipes=None, **block) -> Experiment:
        values = tiny_params(**block)
        values["recipes"] |= recipes or {}
        return suite_experiments(parse_as(Params, values, where=""), "tiny")[0]

    return experiment


def test_override_in_a_section_changes_only_its_key(first) -> None:
    experiment = first({"longer": {"base": "quick", "validation": {"episodes": 9}}}, **{"validation.n_query": 4})
    assert experiment.recipe.validation.model_dump() == {"episodes": 6, "n_shot": 2, "n_query": 4}


def test_base_is_merged_section_by_section(tiny_params) -> None:
    values = tiny_params()
    values["recipes"]["longer"] = {"base": "quick", "validation": {"episodes": 9}}
    values["suites"]["tiny"][0]["recipe"] = "longer"

    experiment = suite_experiments(parse_as(Params, values, where=""), "tiny")[0]

    assert experiment.recipe.validation.model_dump() == {"episodes": 9, "n_shot": 2, "n_query": 3}


def test_block_can_override_the_test_protocol(first) -> None:
    experiment = first(**{"evaluate.n_way": 2, "evaluate.seed": 7})
    assert (experiment.evaluate.n_way, experiment.evaluate.seed) == (2, 7)
    assert experiment.variant == "quick-evaluate_2way-evaluate_seed7"


def test_learner_with_a_linear_head_is_tested_at_its_own_number_of_ways(first) -> None:
    with pytest.raises(ParamsError, match=r"'maml' is trained for 3 ways and cannot be tested with evaluate.n_way 2"):
        first(learner="maml", backbone="conv4_maml", **{"evaluate.n_way": 2})


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"backbone": "conv4"}, r"learner 'maml' adapts the weights of its backbone and needs conv4_maml"),
        ({"backbone": "conv4_maml", "precision": "bfloat16"}, r"runs in float32 only"),
        ({"backbone": "conv4_maml", "label_smoothing": 0.1}, r"no label smoothing"),
        ({"backbone": "conv4_maml", "joint_forward": True}, r"cannot embed support and query in one call"),
        ({"backbone": "conv4_maml", "learner.batch_norm": "per_query", "image_size": 8}, r"needs 2 or more pixels"),
    ],
)
def test_incompatible_components_are_rejected_before_any_job(first, block, message) -> None:
    with pytest.raises(ParamsError, match=message):
        first(learner="maml", **block)


def test_cxgrad_rejects_convolutions_with_a_bias(first) -> None:
    with pytest.raises(ParamsError, match="set bias: false"):
        first(learner="cxgrad", backbone="conv4_maml", **{"backbone.bias": True})
