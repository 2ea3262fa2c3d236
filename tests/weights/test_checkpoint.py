"""Weights and checkpoints on disk: exact round trips, atomic writes, and damage that is refused."""

import pytest
import torch
from safetensors.torch import save_file

from fewshot.errors import CheckpointError
from fewshot.experiments.build import initial_learner
from fewshot.weights.checkpoint import DamagedError, load_checkpoint, load_weights, save_checkpoint, save_weights


@pytest.fixture
def learner(tiny_experiment):
    return initial_learner(tiny_experiment())


def test_weights_survive_a_round_trip(learner, tiny_experiment, tmp_path):
    save_weights(tmp_path / "weights", learner)
    other = initial_learner(tiny_experiment(seed=1))

    load_weights(tmp_path / "weights", other)

    assert all(
        torch.equal(a, b) for a, b in zip(other.state_dict().values(), learner.state_dict().values(), strict=True)
    )


def test_equal_weights_give_byte_identical_files(learner, tmp_path):
    for name in ("a", "b"):
        save_weights(tmp_path / name, learner)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_failed_write_leaves_the_old_file_intact(learner, tmp_path, monkeypatch):
    path = tmp_path / "weights"
    save_weights(path, learner)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(OSError, match="No space left"):
        save_weights(path, learner)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"step": 1})

    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 5, 100, 500])
def test_truncated_weights_are_refused(kept, learner, tmp_path):
    path = tmp_path / "weights"
    save_weights(path, learner)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(CheckpointError, match="weights: not a readable weights file"):
        load_weights(path, learner)


def test_missing_weights_are_refused(learner, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: not a readable weights file"):
        load_weights(tmp_path / "nowhere", learner)


def test_weights_of_another_model_are_refused_naming_the_tensors(learner, tmp_path):
    tensors = dict(learner.state_dict())
    first, *_, last = tensors
    tensors["stranger"] = tensors.pop(first)
    tensors[last] = torch.zeros(7)
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "weights")

    with pytest.raises(CheckpointError) as caught:
        load_weights(tmp_path / "weights", learner)

    message = str(caught.value)
    assert f"missing: {first}" in message
    assert "not of this model: stranger" in message
    assert f"{last} is (7,), not " in message


def test_missing_checkpoint_is_not_an_error(tmp_path):
    assert load_checkpoint(tmp_path / "nowhere") is None


def test_checkpoint_of_a_different_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.weights.checkpoint.FORMAT", 99)
    save_checkpoint(tmp_path / "checkpoint", {})
    monkeypatch.undo()

    with pytest.raises(CheckpointError, match="different format"):
        load_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize("share", [0, 0.01, 0.15, 0.5, 0.9, 0.999])
def test_any_changed_bit_of_a_checkpoint_is_noticed(share, learner, tmp_path):
    path = tmp_path / "checkpoint"
    save_checkpoint(path, {"learner": learner.state_dict()})
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)

    with pytest.raises(DamagedError, match="checkpoint: damaged"):
        load_checkpoint(path)
