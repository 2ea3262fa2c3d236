"""Training is refused if a step cannot fit on the GPU; an out-of-memory error names the settings to lower."""

from types import SimpleNamespace

import pytest
import torch

from fewshot.errors import ResourceError
from fewshot.experiments.build import initial_learner
from fewshot.training.memory import MIB, check_memory, memory_errors
from fewshot.training.outer_step import OuterStep
from fewshot.training.state import Checkpoints
from fewshot.training.train import train

GPU = torch.device("cuda", 0)


@pytest.fixture
def gpu_of(monkeypatch):
    """Return a function that sets the total memory of every GPU, bytes."""

    def arrange(total):
        properties = SimpleNamespace(total_memory=total)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    return arrange


def test_a_step_that_cannot_fit_names_need_memory_and_settings(gpu_of, tiny_experiment):
    gpu_of(1000 * MIB)

    with pytest.raises(ResourceError) as caught:
        check_memory(tiny_experiment(), 2001 * MIB, GPU)

    message = str(caught.value)
    assert "an outer step needs about 2,001 MiB, but cuda:0 has 1,000 MiB" in message
    assert "recipes.quick.precision: bfloat16" in message
    assert "recipes.quick.episodes_per_backward" in message


@pytest.mark.parametrize("step_bytes", [2000 * MIB, None])
def test_a_step_that_may_fit_is_tried(step_bytes, gpu_of, tiny_experiment):
    gpu_of(1000 * MIB)

    check_memory(tiny_experiment(), step_bytes, GPU)


def test_bfloat16_is_not_advised_where_it_is_set(gpu_of, tiny_experiment):
    gpu_of(1)

    with pytest.raises(ResourceError) as caught:
        check_memory(tiny_experiment(recipe={"precision": "bfloat16"}), MIB, GPU)

    assert "precision" not in str(caught.value)


def test_training_is_refused_before_its_first_step(tiny_experiment, tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.training.memory.total_memory", lambda device: 1)
    monkeypatch.setattr(OuterStep, "take", lambda self, step: pytest.fail("a step was taken"))

    with pytest.raises(ResourceError, match="an outer step needs about"):
        train(tiny_experiment(), tiny_store, tmp_path, Checkpoints(tmp_path))


def test_untrained_learners_need_no_memory_for_steps(tiny_experiment, tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.training.memory.total_memory", lambda device: 1)

    train(tiny_experiment(recipe={"epochs": 0}), tiny_store, tmp_path, Checkpoints(tmp_path))

    assert (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("learner", "backbone", "recipe", "episodes"),
    [
        ("ridge", "conv4", {}, 4),
        ("ridge", "conv4", {"episodes_per_backward": 2}, 2),
        ("maml", "conv4_maml", {}, 4),
        ("maml", "conv4_maml", {"episodes_per_backward": 1}, 1),
    ],
)
def test_the_estimate_counts_the_episodes_of_one_backward_pass(
    learner, backbone, recipe, episodes, tiny_experiment, tiny_store
):
    experiment = tiny_experiment(learner, backbone, recipe={"meta_batch": 4, **recipe})
    model = initial_learner(experiment)

    estimate = OuterStep(experiment, tiny_store.split("train"), model).estimate_bytes()

    assert estimate == model.estimate_step_bytes(n_shot=2, n_query=3, episodes=episodes)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("you can't allocate memory")]
)
def test_out_of_memory_names_what_to_lower(error, tiny_experiment):
    message = r"out of memory; .*lower recipes\.quick\.episodes_per_backward"

    with pytest.raises(ResourceError, match=message), memory_errors(tiny_experiment()):
        raise error


def test_out_of_memory_in_a_minibatch_names_its_size(tiny_experiment):
    experiment = tiny_experiment("classifier")
    message = r"out of memory; set recipes\.\w+\.precision: .*, or lower recipes\.\w+\.batch_size or backbone\.filters$"
    with pytest.raises(ResourceError, match=message), memory_errors(experiment):
        raise MemoryError


def test_other_errors_pass_unchanged(tiny_experiment):
    with pytest.raises(RuntimeError, match="shapes differ"), memory_errors(tiny_experiment()):
        raise RuntimeError("shapes differ")


def test_out_of_memory_in_an_evaluation_names_what_to_lower(tiny_experiment):
    message = r"out of memory; .*bfloat16.*lower evaluate\.shots, evaluate\.n_query"
    with pytest.raises(ResourceError, match=message), memory_errors(tiny_experiment(), evaluating=True):
        raise MemoryError
