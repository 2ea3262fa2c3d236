"""The state of a training run: totals become history rows; checkpoints are written when due, by one process."""

import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from fewshot.errors import CheckpointError
from fewshot.training.selection import keep_if_best
from fewshot.training.state import Checkpoints, Kept, Progress, TrainingState


@pytest.fixture
def state_of(tmp_path):
    """Return a function that gives the state of a small module; arguments as for `Checkpoints` and `TrainingState`."""

    def make(seconds=math.inf, writes=True):
        module = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        return TrainingState(module, optimizer, Checkpoints(tmp_path, seconds), writes=writes)

    return make


def test_an_epoch_averages_its_steps_and_resets_the_totals():
    progress = Progress(step=2)
    progress.step_done(1.0, 0.5)
    progress.step_done(3.0, 1.0)

    row = progress.epoch_done(2, 0.1, (0.7, 0.02), {"gradient_norm_head": 3.0})

    assert (row.epoch, row.step, row.train_loss, row.train_accuracy) == (2, 4, 2.0, 0.75)
    assert (row.learning_rate, row.validation_accuracy, row.validation_ci95) == (0.1, 0.7, 0.02)
    assert (progress.loss_sum, progress.accuracy_sum) == (0.0, 0.0)
    assert [found["gradient_norm_head"] for found in progress.history] == [3.0]


@pytest.mark.parametrize(("seconds", "due"), [(-1, True), (math.inf, False)])
def test_a_checkpoint_is_due_after_some_seconds(seconds, due, state_of):
    assert state_of(seconds).save_is_due() == due


def test_only_the_writing_process_saves_and_all_resume(state_of):
    other = state_of(writes=False)
    other.save()
    assert not other.checkpoints.file.exists()
    leader = state_of()
    leader.progress.step_done(1.0, 0.5)
    leader.save()

    assert other.resume()

    assert other.progress == leader.progress
    assert torch.equal(other.learner.weight, leader.learner.weight)


def test_a_deleted_folder_is_created_again(state_of, tmp_path):
    state = state_of()
    state.save()
    shutil.rmtree(tmp_path)

    state.save()

    assert state.resume()


def test_a_deleted_folder_with_the_best_weights_ends_the_training(state_of, tmp_path):
    state = state_of()
    keep_if_best(state, accuracy=0.5, epoch=1, at_most=1)
    shutil.rmtree(tmp_path)

    with pytest.raises(CheckpointError, match=r"epoch-1.safetensors: deleted .*it trains from the start"):
        state.save()

    assert not state_of().resume()


def test_a_save_deletes_the_states_that_are_no_longer_kept(state_of):
    state = state_of()
    for epoch in (1, 2, 3):
        state.checkpoints.kept_state(epoch).touch()
        state.progress.kept = [Kept(0.5, epoch, "hash")]
        state.save()

    assert sorted(file.name for file in state.checkpoints.folder.glob("epoch-*")) == [
        "epoch-2.safetensors",  # named by the checkpoint before
        "epoch-3.safetensors",
    ]


@pytest.mark.parametrize("renamed_to", ["checkpoint-previous.pt", "checkpoint.pt"])
def test_a_kill_while_checkpoints_are_renamed_leaves_one(renamed_to, state_of, monkeypatch):
    state = state_of()
    rename = Path.replace

    def killed(file, target):
        if target.name == renamed_to:
            raise RuntimeError("killed")
        return rename(file, target)

    for step in (1, 2, 3):
        state.progress.step = step
        if step == 3:
            monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(RuntimeError, match="killed") if step == 3 else nullcontext():
            state.save()

    resumed = state_of()
    assert resumed.resume()
    assert resumed.progress.step == 2


def test_nothing_is_resumed_without_a_checkpoint(state_of):
    assert not state_of().resume()
