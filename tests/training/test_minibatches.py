"""Learners that are trained on minibatches: exact resume, what a step computes, and errors before the first step."""

import csv
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fewshot.errors import DataError, ParamsError
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Params
from fewshot.settings import parse_as
from fewshot.training.minibatches import minibatch, tell_feature_mean
from fewshot.training.outer_step import OuterStep, one_cycle
from fewshot.training.state import Checkpoints
from fewshot.training.stop_signals import Interrupted
from fewshot.training.train import train

CPU = torch.device("cpu")


@pytest.fixture
def classifier(tiny_experiment):
    """Return a function that returns an experiment of a classifier on the tiny data set."""
    return lambda learner="classifier", recipe=None, **block: tiny_experiment(learner, recipe=recipe, **block)


@pytest.fixture
def run(tiny_store, tmp_path):
    """Return a function that trains in the folders of a `name` and returns the files of the result."""

    def train_in(experiment, name="run"):
        out, checkpoints = tmp_path / name / "out", tmp_path / name / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        out.mkdir(exist_ok=True)
        train(experiment, tiny_store, out, Checkpoints(checkpoints, math.inf))
        return {path.name: path.read_bytes() for path in out.iterdir()}

    return train_in


@pytest.mark.parametrize("learner", ["classifier", "baselinepp"])
@pytest.mark.parametrize("step", [2, 7])
def test_a_stopped_and_resumed_run_is_byte_identical(learner, step, classifier, run, stop_at_step):
    experiment = classifier(learner, {"augmentation": {"crop_padding": 2, "flip": True}, "schedule": "one_cycle"})
    whole = run(experiment, "whole")
    stop_at_step(step)
    with pytest.raises(Interrupted, match=f"after step {step + 1}"):
        run(experiment, "stopped")

    assert run(experiment, "stopped") == whole


def test_training_learns_the_training_classes(classifier, run):
    experiment = classifier(recipe={"epochs": 8, "learning_rate": 0.05}, **{"backbone.filters": 16})
    rows = list(csv.DictReader(run(experiment)["history.csv"].decode().splitlines()))
    assert float(rows[0]["train_accuracy"]) < 0.4
    assert float(rows[-1]["train_accuracy"]) > 0.9


def test_a_step_is_the_same_in_parts(classifier, tiny_store):
    """Without batch norm, whose statistics are those of a part, the gradient is the mean over all images."""
    weights = []
    for parts in (None, 5):
        experiment = classifier(recipe={"episodes_per_backward": parts, "weight_decay": 0.0}, backbone="pixels")
        learner = initial_learner(experiment)
        OuterStep(experiment, tiny_store.split("train"), learner).take(0)
        weights.append(learner.classes.weight)
    torch.testing.assert_close(*weights)


def test_an_epoch_of_steps_need_not_be_a_pass(classifier, tiny_store):
    """96 training images are 9.6 minibatches of 10: the tenth holds the last 6 and the first 4 of the next pass."""
    experiment, split = classifier(), tiny_store.split("train")
    ids = torch.cat([minibatch(experiment, split, step).ids for step in range(10)])
    assert ids.tolist() == list(range(100))
    images = torch.cat([minibatch(experiment, split, step).images for step in range(10)])[:96]
    assert len({image.numpy().tobytes() for image in images}) == 96


def test_the_mean_of_the_features_is_that_of_the_published_weights(classifier, run, tiny_store, tmp_path):
    experiment = classifier()
    run(experiment)
    weights = load_file(tmp_path / "run" / "out" / "weights.safetensors")
    learner = initial_learner(experiment)
    learner.load_state_dict(weights)
    split, preprocess = tiny_store.split("train"), preprocessing(experiment)
    with torch.no_grad():
        embeddings = learner.eval().embed(preprocess.images(np.array(split.images)))
    torch.testing.assert_close(weights["feature_mean"], embeddings.mean(0), rtol=1e-5, atol=1e-6)
    assert weights["feature_mean"].abs().max() > 0


def test_the_mean_weighs_classes_alike_and_reads_at_most_fifty_images_of_each(classifier, tiny_store, monkeypatch):
    monkeypatch.setattr("fewshot.training.minibatches.IMAGES_PER_CLASS", 3)
    experiment, split = classifier(), tiny_store.split("train")
    learner, preprocess = initial_learner(experiment), preprocessing(experiment)
    tell_feature_mean(learner, split, preprocess, CPU)
    first = np.concatenate([split.images[start : start + 3] for start in split.class_starts])
    with torch.no_grad():
        torch.testing.assert_close(learner.feature_mean, learner.embed(preprocess.images(first)).mean(0))


@pytest.mark.parametrize("steps", [10, 600])
def test_one_cycle_is_that_of_torch(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.0, total_steps=steps + 1, cycle_momentum=False)
    expected = []
    for _ in range(steps):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    found = [2 * one_cycle(step, steps + 1) for step in range(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_one_cycle_of_few_steps_is_positive(steps):
    assert all(0 < one_cycle(step, steps) <= 1 for step in range(steps))


def test_another_number_of_classes_than_the_data_have_is_an_error(classifier, run):
    experiment = classifier(**{"learner.n_classes": 9})
    with pytest.raises(DataError, match=r"distinguishes 9 classes, but split 'train' .* has 8; set learner\.n_class"):
        run(experiment)


ERRORS = [
    ({"recipe": {"batch_size": None}}, "'classifier' is trained on minibatches of images, but recipe 'quick' has no"),
    ({"recipe": {"n_shot": 1}}, "batch_size: a minibatch of images has no n_shot; choose a recipe"),
    ({"shots": "train_shot"}, "shots: learner 'classifier' is trained without shots"),
    ({"recipe": {"devices": 4}}, "devices: 4 does not divide batch_size 10"),
]


@pytest.mark.parametrize(("arguments", "words"), ERRORS)
def test_recipes_that_do_not_fit_are_refused(arguments, words, classifier):
    with pytest.raises(ParamsError, match=words):
        classifier(**arguments)


def test_a_recipe_for_minibatches_is_refused_for_episodes(tiny_params):
    values = tiny_params("classifier")
    values["suites"]["tiny"][0]["learner"] = "ridge"
    with pytest.raises(ParamsError, match="learner 'ridge' is trained on episodes, but recipe 'quick' has"):
        suite_experiments(parse_as(Params, values, where=""), "tiny")


def test_the_record_holds_the_batch_size_and_no_episodes(classifier):
    recipe = classifier().train_settings()["recipe"]
    assert recipe["batch_size"] == 10
    assert not {"n_shot", "n_query", "meta_batch"} & set(recipe)
