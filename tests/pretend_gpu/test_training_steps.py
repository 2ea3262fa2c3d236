"""Every learner takes the same outer step on a GPU as on the CPU."""

import pytest
import torch

from fewshot.datasets.store import Store
from fewshot.experiments.build import initial_learner
from fewshot.experiments.matrix import Experiment
from fewshot.learners import ADAPTIVE_LEARNERS, LEARNERS
from fewshot.training.outer_step import OuterStep
from fewshot.training.parallel import ProcessGroup

AUGMENTED = {"augmentation": {"crop_padding": 2, "jitter": 0.4, "flip": True}}
CASES = [(learner, "conv4_maml" if learner in ADAPTIVE_LEARNERS else "conv4", {}) for learner in sorted(LEARNERS)] + [
    ("ridge", "r2d2", {}),
    pytest.param("svm", "resnet12", {}, marks=pytest.mark.slow),
    ("ridge", "conv4", AUGMENTED),
    ("boil", "conv4_maml", {**AUGMENTED, "optimizer": "adam", "episodes_per_backward": 2}),
    ("ridge", "conv4", {"joint_forward": True, "label_smoothing": 0.1, "episodes_per_backward": 1}),
]


def outer_step(experiment: Experiment, store: Store, device: torch.device) -> tuple[dict[str, torch.Tensor], tuple]:
    """Take one outer step in float64; return the new state on the CPU, and loss and accuracy."""
    learner = initial_learner(experiment).double().to(device)
    reported = OuterStep(experiment, store.split("train"), learner, ProcessGroup(device=device)).take(0)
    return {name: value.detach().cpu() for name, value in learner.state_dict().items()}, reported


@pytest.mark.parametrize(("learner", "backbone", "recipe"), CASES)
def test_an_outer_step_gives_the_numbers_of_the_cpu(
    gpu, float64, learner, backbone, recipe, tiny_experiment, tiny_store
):
    experiment = tiny_experiment(learner, backbone, recipe)
    wanted, (loss, accuracy) = outer_step(experiment, tiny_store, torch.device("cpu"))
    with gpu.counting() as counts:
        found, (gpu_loss, gpu_accuracy) = outer_step(experiment, tiny_store, gpu.device)
    assert counts.launches > 100, "the step did not run on the device"
    assert gpu_loss == pytest.approx(loss, abs=1e-10)
    assert gpu_accuracy == accuracy
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)
