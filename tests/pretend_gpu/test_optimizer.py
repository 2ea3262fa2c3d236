"""The outer optimiser of a GPU takes over a checkpoint that was written on a CPU, and the other way round."""

import pytest
import torch

from fewshot.experiments.build import initial_learner
from fewshot.training.optimizer import build_optimizer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def after_a_step(experiment, device):
    """Return the state of the outer optimiser after its first step on the CPU, with the options for `device`."""
    learner = initial_learner(experiment)
    optimizer = build_optimizer(experiment.recipe, learner, device)
    for parameter in learner.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_gpu_takes_over_the_optimiser_of_a_cpu(gpu, optimizer, tiny_experiment):
    experiment = tiny_experiment(recipe={"optimizer": optimizer})
    learner = initial_learner(experiment).to(gpu.device)
    found = build_optimizer(experiment.recipe, learner, CUDA)

    found.load_state_dict(after_a_step(experiment, CPU))

    tensors = [value for state in found.state.values() for value in state.values()]
    assert tensors
    assert {tensor.device.type for tensor in tensors} == {"pretend"}
    assert found.param_groups[0]["fused"] is True
    assert found.param_groups[0].get("capturable", True)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_cpu_takes_over_the_optimiser_of_a_gpu(optimizer, tiny_experiment):
    experiment = tiny_experiment(recipe={"optimizer": optimizer})
    found = build_optimizer(experiment.recipe, initial_learner(experiment), CPU)

    found.load_state_dict(after_a_step(experiment, CUDA))

    assert not found.param_groups[0]["fused"]
    assert not found.param_groups[0].get("capturable", False)
