"""The mean of the weights after the last epochs: what it is, that it resumes to the byte, and what it excludes."""

import csv
import math

import pytest
import torch
from safetensors.torch import load_file

from fewshot.errors import ParamsError
from fewshot.training.state import Checkpoints
from fewshot.training.stop_signals import Interrupted
from fewshot.training.train import train


@pytest.fixture
def run(tiny_store, tmp_path):
    """Return a function that trains in the folders of a `name` and returns the folder of results and the facts."""

    def train_in(experiment, name="run"):
        out, checkpoints = tmp_path / name / "out", tmp_path / name / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        out.mkdir(exist_ok=True)
        facts = train(experiment, tiny_store, out, Checkpoints(checkpoints, math.inf))
        return out, facts

    return train_in


@pytest.mark.parametrize("learner", ["ridge", "classifier"])
def test_the_result_is_the_mean_of_the_last_epochs(learner, tiny_experiment, run):
    """Without validation, the weights of 2 and of 3 epochs at a constant rate are those within a run of 3."""
    recipe = {"schedule": [], "validation": {"episodes": 0}}
    ends = [run(tiny_experiment(learner, recipe={**recipe, "epochs": n}), f"{n}")[0] for n in (2, 3)]
    second, third = (load_file(out / "weights.safetensors") for out in ends)

    out, facts = run(tiny_experiment(learner, recipe={**recipe, "average_checkpoints": 2}), "averaged")

    averaged = load_file(out / "weights.safetensors")
    for name, value in averaged.items():
        if name.endswith("num_batches_tracked"):
            assert value == third[name]
        elif name != "feature_mean":  # that of the averaged weights, not the mean of two
            torch.testing.assert_close(value, (second[name] + third[name]) / 2, rtol=1e-6, atol=1e-7)
    assert facts["averaged_epochs"] == 2


def test_it_takes_the_place_of_the_best_epoch(tiny_experiment, run):
    out, facts = run(tiny_experiment(recipe={"average_checkpoints": 3}))
    with (out / "history.csv").open(newline="") as file:
        assert all(row["validation_accuracy"] for row in csv.DictReader(file))
    assert facts["selected_epoch"] == 3


@pytest.mark.parametrize("step", [5, 8, 10])
def test_a_stopped_and_resumed_average_is_byte_identical(step, tiny_experiment, run, stop_at_step):
    experiment = tiny_experiment("classifier", recipe={"average_checkpoints": 2})
    whole, _ = run(experiment, "whole")
    stop_at_step(step)
    with pytest.raises(Interrupted):
        run(experiment, "stopped")

    resumed, _ = run(experiment, "stopped")
    assert (resumed / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"average_checkpoints": 4}, "average_checkpoints: 4 is more than epochs 3; lower it"),
        ({"average_checkpoints": 2, "keep_checkpoints": 2}, "exclude each other"),
    ],
)
def test_settings_that_do_not_fit_are_refused(recipe, words, tiny_experiment):
    with pytest.raises(ParamsError, match=words):
        tiny_experiment(recipe=recipe)


def test_the_record_of_other_trainings_stays_as_it_was(tiny_experiment):
    assert "average_checkpoints" not in tiny_experiment().train_settings()["recipe"]
    assert tiny_experiment(recipe={"average_checkpoints": 2}).train_settings()["recipe"]["average_checkpoints"] == 2
