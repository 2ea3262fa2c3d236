"""Outer steps queued on a GPU: inputs drawn ahead, one read per step, and steps repeated when a check fails."""

import pytest
import torch

from fewshot.backbones.dropblock import DropBlock
from fewshot.checks import holds
from fewshot.errors import NumericalError
from fewshot.experiments.build import initial_learner
from fewshot.solvers import pivoting_torch
from fewshot.training import device_inputs
from fewshot.training.outer_step import OuterStep
from fewshot.training.parallel import ProcessGroup

CPU = torch.device("cpu")
AUGMENTED = {"augmentation": {"crop_padding": 2, "jitter": 0.4, "flip": True}}


def states_after(steps, experiment, store, device):
    """Return the learner's state on the CPU after some outer steps in float64, and what the steps reported."""
    learner = initial_learner(experiment).double().to(device)
    outer_step = OuterStep(experiment, store.split("train"), learner, ProcessGroup(device=device))
    reported = [outer_step.take(step) for step in range(steps)]
    return {name: value.detach().cpu() for name, value in learner.state_dict().items()}, reported


def assert_same(found, wanted):
    assert found[0].keys() == wanted[0].keys()
    for name, value in wanted[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-9, atol=1e-9)
    for pair in zip(found[1], wanted[1], strict=True):
        assert pair[0] == pytest.approx(pair[1], abs=1e-9)


@pytest.mark.parametrize("recipe", [{}, AUGMENTED, {"image_size": 20}], ids=["plain", "augmented", "resized"])
@pytest.mark.parametrize("free_bytes", [None, 0], ids=["resident", "copied"])
@pytest.mark.parametrize("learner", ["ridge", "classifier"])
def test_several_steps_give_the_numbers_of_the_cpu(
    gpu, float64, learner, recipe, free_bytes, tiny_experiment, tiny_store, monkeypatch
):
    monkeypatch.setattr(device_inputs, "free_memory", lambda device: free_bytes)
    experiment = tiny_experiment(learner, "conv4", recipe)

    assert_same(states_after(4, experiment, tiny_store, gpu.device), states_after(4, experiment, tiny_store, CPU))


@pytest.mark.parametrize(("learner", "uploads"), [("ridge", 1), ("classifier", 2)])  # the table; labels too
def test_images_of_a_split_are_sent_once(gpu, learner, uploads, tiny_experiment, tiny_store):
    experiment = tiny_experiment(learner, "conv4", AUGMENTED)
    learner = initial_learner(experiment).to(gpu.device)
    outer_step = OuterStep(experiment, tiny_store.split("train"), learner, ProcessGroup(device=gpu.device))
    outer_step.take(0)

    with gpu.counting() as counts:
        outer_step.take(1)

    assert counts.uploads.total() == uploads, counts.uploads
    assert counts.synchronisations.total() == 1, counts.synchronisations


def test_a_step_with_an_unsolved_problem_is_repeated(gpu, float64, tiny_experiment, tiny_store, monkeypatch):
    experiment = tiny_experiment("svm", "conv4", AUGMENTED)
    wanted = states_after(3, experiment, tiny_store, CPU)
    once = states_after(3, experiment, tiny_store, gpu.device)
    with gpu.counting() as counts:
        monkeypatch.setattr(pivoting_torch, "BLIND_ROUNDS", 1)
        repeated = states_after(3, experiment, tiny_store, gpu.device)

    assert counts.synchronisations.total() > 3, "one round solved every problem, so that nothing was repeated"
    assert_same(once, wanted)
    assert_same(repeated, wanted)


@pytest.mark.parametrize("learner", ["ridge", "svm", "maml"])
def test_a_failed_check_is_explained_as_on_the_cpu(gpu, learner, tiny_experiment, tiny_store):
    experiment = tiny_experiment(learner, "conv4_maml" if learner == "maml" else "conv4")
    messages = []
    for device in (CPU, gpu.device):
        model = initial_learner(experiment)
        next(model.parameters()).data.fill_(float("nan"))
        model.to(device)
        outer_step = OuterStep(experiment, tiny_store.split("train"), model, ProcessGroup(device=device))
        with pytest.raises(NumericalError) as caught:
            outer_step.take(0)
        messages.append(str(caught.value))

    assert messages[0] == messages[1]


def test_a_repeated_step_drops_the_share_of_its_own_step(gpu, tiny_experiment, tiny_store):
    experiment = tiny_experiment("ridge", "conv4")
    learner = initial_learner(experiment)
    learner.backbone.block = block = DropBlock(map_size=4, block_size=2, rate=0.1, ramp_steps=9, mode="ramp")
    learner.backbone.set_step = block.set_step
    learner.to(gpu.device)
    given, taken = learner.loss, []

    def loss(batch, step):
        output = given(batch, step)
        taken.append((step, block._forwards.item()))
        holds(torch.tensor(step != 2))
        return output

    learner.loss = loss
    outer_step = OuterStep(experiment, tiny_store.split("train"), learner, ProcessGroup(device=gpu.device))
    for step in range(4):
        outer_step.take(step)

    assert taken == [(0, 0), (1, 2), (2, 4), (2, 4), (3, 6)]
