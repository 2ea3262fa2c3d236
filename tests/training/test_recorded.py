"""Steps that are recorded and queued one ahead, without a GPU: a replay runs the operations again, one by one."""

from types import SimpleNamespace

import pytest
import torch

from fewshot.checks import holds
from fewshot.errors import NumericalError
from fewshot.experiments.build import initial_learner
from fewshot.training import outer_step as module
from fewshot.training.optimizer import build_optimizer
from fewshot.training.outer_step import OuterStep
from fewshot.training.recorded import RecordedSteps


@pytest.fixture
def recording(monkeypatch):
    """Let outer steps on the CPU take the way of an NVIDIA GPU; return the number of steps recorded and repeated."""
    counts = SimpleNamespace(recorded=0, repeated=0, queued=None)

    def queue(steps, step):
        counts.queued = step
        queue_step(steps, step)

    def record(steps, step):
        def replay():
            steps.gradients.clear()
            steps._run(counts.queued)

        counts.recorded += 1
        steps._written = [None for _ in steps.learner.parameters()]
        return SimpleNamespace(replay=replay)

    def repeat(steps, step, ahead):
        counts.repeated += 1
        return repeat_step(steps, step, ahead)

    queue_step, repeat_step = RecordedSteps._queue, RecordedSteps._repeat
    event = SimpleNamespace(synchronize=lambda: None, record=lambda: None)
    monkeypatch.setattr(RecordedSteps, "_queue", queue)
    monkeypatch.setattr(RecordedSteps, "_recorded", record)
    monkeypatch.setattr(RecordedSteps, "_repeat", repeat)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(OuterStep, "_records", True)
    return counts


def optimizer_of_a_gpu(recipe, learner, device):
    return build_optimizer(recipe, learner, torch.device("cuda"))


def states(experiment, store, ahead, monkeypatch, loss=None):
    """Return the learner's state after six steps, and what they reported."""
    monkeypatch.setattr(module, "build_optimizer", optimizer_of_a_gpu)
    learner = initial_learner(experiment)
    if loss is not None:
        given = learner.loss
        learner.loss = lambda batch, step: loss(given, batch, step)
    outer_step = OuterStep(experiment, store.split("train"), learner)
    reported = [outer_step.take(step, ahead=step in ahead) for step in range(6)]
    return learner.state_dict(), reported


def assert_same(found, wanted):
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(wanted[1]), rtol=1e-5, atol=1e-6)
    for name, value in wanted[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ahead", [(), (0, 1, 2, 3, 4), (0, 1, 3)], ids=["never", "always", "sometimes"])
@pytest.mark.parametrize(("learner", "backbone"), [("ridge", "conv4"), ("maml", "conv4_maml")])
def test_recorded_steps_give_the_numbers_of_the_plain_ones(
    learner, backbone, ahead, tiny_experiment, tiny_store, request, monkeypatch
):
    experiment = tiny_experiment(learner, backbone)
    wanted = states(experiment, tiny_store, (), monkeypatch)
    counts = request.getfixturevalue("recording")

    assert_same(states(experiment, tiny_store, ahead, monkeypatch), wanted)
    assert counts.recorded == 1
    assert counts.repeated == 0


@pytest.mark.parametrize("failing", [0, 1, 3, 5])
@pytest.mark.parametrize("ahead", [(), (0, 1, 2, 3, 4)], ids=["never", "always"])
def test_a_step_whose_check_failed_is_taken_once(failing, ahead, tiny_experiment, tiny_store, request, monkeypatch):
    experiment = tiny_experiment("ridge", "conv4")
    wanted = states(experiment, tiny_store, (), monkeypatch)
    counts = request.getfixturevalue("recording")
    first_ids = failing * experiment.recipe.meta_batch

    def loss(given, batch, step):
        holds(torch.tensor(int(batch.episode_ids[0]) != first_ids))
        return given(batch, step)

    assert_same(states(experiment, tiny_store, ahead, monkeypatch, loss), wanted)
    assert counts.repeated == 1


@pytest.mark.parametrize("ahead", [(), (0, 1, 2, 3, 4)], ids=["never", "always"])
def test_a_loss_that_is_not_finite_is_named_with_its_step(ahead, recording, tiny_experiment, tiny_store, monkeypatch):
    experiment = tiny_experiment("ridge", "conv4", recipe={"steps_per_epoch": 4, "schedule": [[1, 0.5]]})
    first_ids = 3 * experiment.recipe.meta_batch

    def loss(given, batch, step):
        output = given(batch, step)
        factor = float("nan") if int(batch.episode_ids[0]) == first_ids else 1.0
        return SimpleNamespace(loss=output.loss * factor, accuracy=output.accuracy)

    with pytest.raises(NumericalError, match=r"the loss is nan \(after 3 steps, at learning rate 0\.1\)"):
        states(experiment, tiny_store, ahead, monkeypatch, loss)
