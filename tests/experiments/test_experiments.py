"""How blocks, recipes and their bases become experiments."""

import pytest

from fewshot.errors import ParamsError
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.matrix import suite_experiments
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


def test_validation_has_the_ways_of_training_unless_it_gives_its_own(first) -> None:
    assert first().recipe.validation_form.n_way == 3
    assert first(**{"validation.n_way": 2}).recipe.validation_form.n_way == 2
    assert first(n_way=8, **{"validation.n_way": 2}).recipe.form.n_way == 8


def test_inner_gradients_are_of_validation_episodes_and_recorded_only_where_given(first) -> None:
    assert "inner_gradients" not in first().train_settings()["recipe"]["validation"]
    given = first(**{"validation.inner_gradients": 6})
    assert given.train_settings()["recipe"]["validation"]["inner_gradients"] == 6
    with pytest.raises(ParamsError, match="inner_gradients is 7, more than the 6 validation episodes"):
        first(**{"validation.inner_gradients": 7})


def test_ways_of_validation_are_recorded_only_where_given(first) -> None:
    assert "n_way" not in first().train_settings()["recipe"]["validation"]
    assert first(**{"validation.n_way": 2}).train_settings()["recipe"]["validation"]["n_way"] == 2


def test_twenty_ways_can_be_trained_with_sixteen_validation_classes(first) -> None:
    with pytest.raises(
        ParamsError,
        match=r"validation with n_way 20, but mini_imagenet has 16 validation classes; lower validation\.n_way",
    ):
        first(dataset="mini_imagenet", n_way=20)
    experiment = first(dataset="mini_imagenet", n_way=20, **{"validation.n_way": 16})
    assert experiment.variant == "quick-20way-validation_16way"


@pytest.mark.parametrize(
    ("block", "advice"),
    [
        ({"n_way": 65, "validation.n_way": 5}, r"training with n_way 65, .* 64 train classes; lower n_way"),
        ({"evaluate.n_way": 21}, r"evaluation with n_way 21, .* 20 test classes; lower evaluate\.n_way"),
        ({"validation.n_shot": 590, "validation.n_query": 20}, r"lower validation\.n_shot or validation\.n_query"),
        ({"shots": [590], "evaluate.n_query": 20}, r"lower shots or evaluate\.n_query"),
    ],
)
def test_the_setting_to_lower_is_named(first, block, advice) -> None:
    with pytest.raises(ParamsError, match=advice):
        first(dataset="mini_imagenet", **block)


def test_learner_with_a_linear_head_is_validated_at_its_own_number_of_ways(first) -> None:
    with pytest.raises(ParamsError, match=r"trained for 3 ways and cannot be tested with validation\.n_way 2"):
        first(learner="maml", backbone="conv4_maml", **{"validation.n_way": 2})
    unvalidated = {"validation.n_way": 2, "validation.episodes": 0}
    assert first(learner="maml", backbone="conv4_maml", **unvalidated).recipe.validates is False


def test_backbone_and_recipe_that_are_both_wrong_are_both_reported(first) -> None:
    with pytest.raises(ParamsError) as error:
        first(backbone="conv5", n_way=1)
    assert [words for words in ("'conv5'", "n_way: 1 is not allowed") if words not in str(error.value)] == []


@pytest.mark.parametrize("path", ["nowhere.pth", ".", "x" * 5000, "a\0b"])
def test_weights_that_are_not_a_file_are_refused(first, path) -> None:
    with pytest.raises(ParamsError, match=r"suites\.tiny\[0\]\.weights: .* is not a file"):
        first(weights=path)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"backbone": "conv4"}, r"learner 'maml' adapts the weights of its backbone and needs conv4_maml"),
        ({"backbone": "conv4_maml", "precision": "bfloat16"}, r"does not run in precision"),
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


@pytest.fixture
def schedule_of(tiny_params):
    """Return a function that returns the schedule of a recipe, given its settings in the file and those of others."""

    def schedule(given, **others):
        values = tiny_params(recipe={"schedule": given})
        values["recipes"] |= others
        values["suites"]["tiny"][0]["recipe"] = next(reversed(values["recipes"]))
        return suite_experiments(parse_as(Params, values, where=""), "tiny")[0].recipe.schedule

    return schedule


def test_both_notations_of_a_schedule_mean_the_same(schedule_of) -> None:
    lists = {"epochs": [1, 2], "multipliers": [0.5, 0.25]}
    assert schedule_of(lists) == schedule_of([[1, 0.5], [2, 0.25]]) == ((1, 0.5), (2, 0.25))


def test_recipe_can_change_one_list_of_the_schedule_of_its_base(schedule_of) -> None:
    changed = {"base": "quick", "schedule": {"multipliers": [0.5, 0.1]}}
    assert schedule_of({"epochs": [1, 2], "multipliers": [0.5, 0.25]}, changed=changed) == ((1, 0.5), (2, 0.1))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"epochs": [1, 2], "multipliers": [0.5]}, r"epochs \[1, 2\] and multipliers \[0.5\] differ in length"),
        ({"epochs": [1]}, "give two lists"),
        ({"epochs": 1, "multipliers": 0.5}, "give two lists"),
        ({"epochs": ["one"], "multipliers": [0.5]}, "valid integer"),
        ([[1, 0.5, 2]], "at most 2 items"),
        ("step", "should be 'cosine'"),
    ],
)
def test_schedule_that_cannot_be_read_is_refused(schedule_of, schedule, message) -> None:
    with pytest.raises(ParamsError, match=rf"recipes\.quick\.schedule.*{message}"):
        schedule_of(schedule)


def test_named_blocks_are_those_of_a_list(tiny_params) -> None:
    values, named = tiny_params(), tiny_params()
    named["suites"]["tiny"] = {"first": values["suites"]["tiny"][0]}

    found = [suite_experiments(parse_as(Params, blocks, where=""), "tiny") for blocks in (values, named)]

    assert found[0] == found[1]


def test_mistake_in_a_named_block_gives_its_name(tiny_params) -> None:
    values = tiny_params()
    values["suites"]["tiny"] = {"mine": {**values["suites"]["tiny"][0], "sede": 3}}
    with pytest.raises(ParamsError, match=r"suites\.tiny\.mine: unknown key 'sede'; .* Did you mean 'seed'\?"):
        suite_experiments(parse_as(Params, values, where=""), "tiny")


def test_number_written_in_two_ways_is_one_value(first) -> None:
    with pytest.raises(
        ParamsError, match=r"suites\.tiny\[0\]\.learner\.ridge: 1\.0 and 1 are the same value; remove one"
    ):
        first(learner="ridge", **{"learner.ridge": [1.0, 1]})
