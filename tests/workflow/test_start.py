"""Trainings that start from trainings: planned, keyed, computed, recorded, and refused with clear errors."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from fewshot.errors import CheckpointError, ParamsError
from fewshot.experiments.build import initial_learner
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Params
from fewshot.settings import parse_as
from fewshot.training.state import Checkpoints
from fewshot.training.train import train
from fewshot.weights.checkpoint import save_weights
from fewshot.weights.start import load_backbone
from fewshot.workflow.jobs import train_job
from fewshot.workflow.plan import make_plan


@pytest.fixture
def params_of(tiny_params):
    """Return a function that returns parameters of a suite whose training starts from another one."""

    def params(learner="ridge", backbone="conv4", init=None, recipes=None, **block):
        values = tiny_params(learner, backbone)
        pretraining = tiny_params("classifier")["recipes"]["quick"]
        values["recipes"] |= {"images": pretraining, "untrained": {"base": "quick", "epochs": 0}, **(recipes or {})}
        start = {"learner": "classifier", "recipe": "images"} if init is None else init
        values["suites"]["tiny"][0] |= {"init": start, **block}
        return parse_as(Params, values, where="")

    return params


@pytest.fixture
def experiment_of(params_of):
    """Return a function that returns the first experiment; it takes the arguments of `params_of`."""
    return lambda *arguments, **changes: suite_experiments(params_of(*arguments, **changes), "tiny")[0]


def test_the_first_training_is_a_job_that_the_second_depends_on(params_of):
    plan = make_plan(params_of(seed=[0, 1]), "tiny")
    names = [job.name for job in plan.train]
    assert names == [
        "glyphs-conv4-classifier-images-s0",
        "glyphs-conv4-ridge-quick-from_classifier_images-s0",
        "glyphs-conv4-classifier-images-s1",
        "glyphs-conv4-ridge-quick-from_classifier_images-s1",
    ]
    first, second = plan.train[:2]
    assert second.init is first
    assert second.inputs == (second.prepare, first)
    assert second.identity["start"] == first.key
    assert plan.find("train", first.name, first.key) is first
    assert [job.train.name for job in plan.evaluate] == names[1::2]


def test_a_training_of_the_suite_and_a_start_with_the_same_settings_are_one(params_of):
    params = params_of()
    block = {"dataset": "glyphs", "backbone": "conv4", "learner": "classifier", "recipe": "images"}
    values = params.model_dump(mode="json", exclude_unset=True)
    values["suites"]["tiny"].append(block)
    plan = make_plan(parse_as(Params, values, where=""), "tiny")
    assert len(plan.train) == 2
    assert plan.evaluate[1].train is plan.train[0] is plan.evaluate[0].train.init


def test_the_key_changes_with_the_settings_of_the_start_but_not_without_one(params_of, tiny_params):
    keys = [
        make_plan(params_of(recipes={"images": recipe}), "tiny").train[-1].key
        for recipe in ({"batch_size": 4, "image_size": 16}, {"batch_size": 5, "image_size": 16})
    ]
    assert len(set(keys)) == 2
    plain = make_plan(parse_as(Params, tiny_params("ridge"), where=""), "tiny").train[0]
    assert "start" not in plain.identity
    assert "init" not in plain.settings


def test_overrides_of_the_backbone_hold_for_both(experiment_of):
    experiment = experiment_of(**{"backbone.filters": 7})
    assert experiment.init.backbone.settings == experiment.backbone.settings == {"filters": 7}
    assert experiment.name == "glyphs-conv4-ridge-quick-filters7-from_classifier_images-filters7-s0"


def test_a_start_may_start_from_another_one(experiment_of):
    inner = {"learner": "classifier", "recipe": "images"}
    experiment = experiment_of("svm", init={"learner": "ridge", "recipe": "quick", "init": inner})
    assert [training.learner.name for training in experiment.trainings] == ["svm", "ridge", "classifier"]
    assert experiment.train_settings()["init"]["init"]["learner"]["name"] == "classifier"
    assert "seed" not in experiment.train_settings()["init"]


@pytest.mark.parametrize("learner", ["ridge", "maml", "mamlpp", "cxgrad"])
def test_a_learner_starts_with_the_trained_backbone(learner, experiment_of, tiny_store, tmp_path):
    short = {"batch_size": 6, "epochs": 1, "steps_per_epoch": 2, "image_size": 16, "validation": {"episodes": 0}}
    experiment = experiment_of(learner, "conv4_maml", recipes={"images": short})
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    train(experiment.init, tiny_store, first, Checkpoints(tmp_path / "a", math.inf))
    weights = load_file(first / "weights.safetensors")

    started = initial_learner(experiment)
    load_backbone(first / "weights.safetensors", started.trained_backbone)
    train(experiment, tiny_store, second, Checkpoints(tmp_path / "b", math.inf), start=first / "weights.safetensors")

    for name, value in started.trained_backbone.named_parameters():
        assert torch.equal(value, weights[f"backbone.{name}"].expand_as(value))
    assert (second / "history.csv").read_text().count("\n") == 4


def test_weights_of_another_network_are_refused(tmp_path, experiment_of):
    ours, theirs = (initial_learner(experiment_of(**{"backbone.filters": n})) for n in (4, 5))
    save_weights(tmp_path / "weights.safetensors", theirs)
    with pytest.raises(CheckpointError, match="does not fit the model; of a different shape"):
        load_backbone(tmp_path / "weights.safetensors", ours.trained_backbone)


def test_a_training_whose_start_is_missing_names_the_command(params_of, project, tiny_store, monkeypatch):
    plan = make_plan(params_of(), "tiny")
    monkeypatch.setattr("fewshot.workflow.jobs.open_prepared", lambda job: tiny_store)
    with pytest.raises(
        CheckpointError, match="must be trained first; run: fewshot train glyphs-conv4-classifier-images"
    ):
        train_job(plan.train[1], plan)


CLASSIFIER = {"learner": "classifier", "recipe": "images"}
ERRORS = [
    ({"init": {**CLASSIFIER, "backbone": "r2d2"}}, "init: its backbone r2d2 at 16 pixels differs from conv4"),
    ({"init": {**CLASSIFIER, "backbone.filters": 5}}, r"its backbone conv4 \(filters 5\) at 16 pixels"),
    ({"init": {**CLASSIFIER, "image_size": 32}}, "at 32 pixels differs from conv4 .* at 16 pixels"),
    ({"init": {**CLASSIFIER, "recipe": "untrained"}}, "'classifier' is trained on minibatches"),
    ({"init": {"learner": "svm", "recipe": "untrained"}}, "init: recipe 'untrained' has epochs 0"),
    ({"recipe": "untrained"}, r"tiny\[0\]: recipe 'untrained' has epochs 0"),
    ({"init": {**CLASSIFIER, "learner": ["classifier", "baselinepp"]}}, "init: has 2 combinations of values"),
    ({"init": {**CLASSIFIER, "dataset": "cub"}}, "init.dataset: not allowed here: data set and seed are"),
    ({"init": {**CLASSIFIER, "variants": ["as_trained"]}}, "init.variants: not allowed here: a start is only trained"),
    ({"init": {**CLASSIFIER, "evaluate.n_way": 3}}, "init.evaluate.n_way: not allowed here: a start is only trained"),
    ({"init": {"learner": "classifier"}}, "init.recipe: missing key 'recipe'"),
    ({"init": {**CLASSIFIER, "recipe": "imges"}}, "init: unknown recipe 'imges'.* Did you mean 'images'"),
    ({"init": {**CLASSIFIER, "epoch": 3}}, "init: unknown key 'epoch'.* Did you mean 'epochs'"),
    ({"init": {"learner": "maml", "recipe": "quick"}, "backbone": "conv4_maml"}, "'maml' keeps no running"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), ERRORS)
def test_starts_that_do_not_fit_are_refused_by_the_plan(changes, words, experiment_of):
    with pytest.raises(ParamsError, match=words):
        experiment_of(**changes)


def test_dropout_may_differ_between_the_two(experiment_of):
    init = {**CLASSIFIER, "backbone": "resnet12", "backbone.dropblock": "off"}
    assert experiment_of(backbone="resnet12", init=init).init.backbone.settings["dropblock"] == "off"


def test_an_export_of_a_started_training_can_be_read(experiment_of):
    from fewshot.sharing.export import TrainedSettings

    settings = json.loads(json.dumps(experiment_of().train_settings()))
    assert parse_as(TrainedSettings, settings, where="").init == settings["init"]
