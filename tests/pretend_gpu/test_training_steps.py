"""Every learner takes the same outer step on a GPU as on the CPU."""

import pytest
import torch

from fewshot.backbones.dropblock import DropBlock, keep_share
from fewshot.checks import deferred
from fewshot.datasets.store import Store
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.experiments.experiment import Experiment
from fewshot.learners import ADAPTIVE_LEARNERS, CLASSIFIERS, EPISODIC_LEARNERS, LEARNERS
from fewshot.training.outer_step import OuterStep, training_batch
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
    for module in learner.modules():
        if isinstance(module, DropBlock):
            module.mode = "off"  # it draws other random numbers on accelerators
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
    assert gpu_accuracy == pytest.approx(accuracy, abs=1e-7)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)


def test_dropblock_drops_the_same_share_on_a_gpu(gpu):
    block = DropBlock(map_size=6, block_size=1, rate=0.4, ramp_steps=100, mode="ramp").to(gpu.device)
    maps = torch.ones(200, 32, 6, 6).to(gpu.device)
    block.set_step(50)

    support, query = (block(maps).cpu() for _ in range(2))

    for call, dropped in ((101, support), (102, query)):
        assert (dropped > 0).float().mean().item() == pytest.approx(keep_share(call, 0.4, 100), abs=0.005)
    assert not torch.equal(support, query)


def test_the_rate_of_dropblock_follows_the_step_on_a_gpu(gpu):
    block = DropBlock(map_size=6, block_size=1, rate=0.4, ramp_steps=100, mode="ramp").to(gpu.device)
    maps, kept = torch.ones(200, 32, 6, 6).to(gpu.device), []
    for step in (0, 50, 100, 500):
        block.set_step(step)
        kept.append((block(maps).cpu() > 0).float().mean().item())

    assert kept == pytest.approx([keep_share(2 * step + 1, 0.4, 100) for step in (0, 50, 100, 500)], abs=0.005)


@pytest.mark.parametrize("learner", ADAPTIVE_LEARNERS)
def test_adapting_to_all_tasks_needs_nothing_from_the_host(gpu, learner, tiny_experiment, tiny_store):
    experiment = tiny_experiment(learner, "conv4_maml", {"meta_batch": 3})
    model = initial_learner(experiment).to(gpu.device)
    batch = training_batch(experiment, tiny_store.split("train"), 0).to(gpu.device)
    images = preprocessing(experiment)(batch, training=True)

    with gpu.counting() as counts, deferred() as conditions:
        model.loss(images, 0).loss.backward()

    assert conditions
    assert not counts.synchronisations
    assert not counts.uploads


@pytest.mark.parametrize("learner", sorted({**EPISODIC_LEARNERS, **CLASSIFIERS}))
def test_a_learner_is_recordable_if_it_needs_nothing_from_the_host(gpu, learner, tiny_experiment, tiny_store):
    experiment = tiny_experiment(learner, "conv4")
    model = initial_learner(experiment).to(gpu.device)
    batch = training_batch(experiment, tiny_store.split("train"), 0).to(gpu.device)
    images = preprocessing(experiment)(batch, training=True)

    with gpu.counting() as counts, deferred():
        model.loss(images, 0).loss.backward()

    assert model.recordable == (not counts.synchronisations and not counts.uploads)
