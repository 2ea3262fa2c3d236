"""All tasks of a batch at once, as on accelerators, give the numbers of one task after the other, in few operations."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot.checks import deferred
from fewshot.errors import NumericalError
from fewshot.learners import ADAPTIVE_LEARNERS, MAML, LearnerContext

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
CASES = [
    *((name, {}) for name in ADAPTIVE_LEARNERS),
    *((name, {"checkpoint_inner_steps": True}) for name in ("maml", "mamlpp", "cxgrad")),
    *((name, {"second_order": False}) for name in ("boil", "alfa", "cxgrad")),
    ("maml", {"batch_norm": "support"}),
    ("maml", {"batch_norm": "per_query", "image_size": 32}),
    ("maml", {"backbone_settings": {"pooling": "stride", "bias": True}}),
    ("maml", {"first_order_epochs": 1}),
    ("mamlpp", {"multi_step_loss_epochs": 0, "backbone_settings": {"bias": True}}),
    ("alfa", {"attenuate": True}),
    ("alfa", {"attenuate": True, "second_order": False}),
    ("alfa", {"random_initialization": True, "attenuate": True}),
    ("cxgrad", {"contextual": False}),
    ("cxgrad", {"per_layer_rates": True, "per_step_batch_norm": True, "multi_step_loss_epochs": 3}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_loss_gradients_and_logits_equal_those_of_one_task_after_the_other(
    name, settings, small_learner, random_batch, outer_gradients
):
    learner = small_learner(name, **settings)
    batch = random_batch(n_episodes=3, image_size=learner.context.image_size)
    gradients, output, logits = [], [], []
    for learner.tasks_at_once in (False, True):
        gradients.append(outer_gradients(learner, batch))
        output.append(learner.loss(batch, 0))
        logits.append(learner.logits(batch))

    torch.testing.assert_close(output[1].loss, output[0].loss, **CLOSE)
    torch.testing.assert_close(output[1].accuracy, output[0].accuracy)
    torch.testing.assert_close(logits[1], logits[0], **CLOSE)
    assert gradients[1].keys() == gradients[0].keys()
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, **CLOSE, msg=parameter)


def test_other_backbones_can_be_adapted_at_once_too(random_batch, outer_gradients):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    learner = MAML(backbone, LearnerContext(n_way=3, image_size=16), inner_steps=2, inner_learning_rate=0.1).double()
    batch = random_batch(n_episodes=3)
    expected = outer_gradients(learner, batch)

    learner.tasks_at_once = True

    for name, gradient in outer_gradients(learner, batch).items():
        torch.testing.assert_close(gradient, expected[name], **CLOSE)


class Operations(TorchDispatchMode):
    """Counts the operations that torch computes."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_the_number_of_operations_does_not_grow_with_the_tasks(name, small_learner, random_batch, outer_gradients):
    learner = small_learner(name)
    learner.tasks_at_once = True
    counts = []
    for n_episodes in (2, 6):
        with Operations() as operations:
            outer_gradients(learner, random_batch(n_episodes))
            learner.logits(random_batch(n_episodes))
        counts.append(operations.count)

    assert counts[0] == counts[1]


def test_a_support_loss_that_is_not_finite_names_its_episode(small_learner, random_batch):
    learner, batch = small_learner("maml"), random_batch(n_episodes=3)
    learner.tasks_at_once = True
    support = batch.support_images.clone()
    support[1] = torch.nan
    broken = dataclasses.replace(batch, support_images=support)
    for compute in (lambda: learner.loss(broken, 0), lambda: learner.logits(broken)):
        with pytest.raises(NumericalError, match="the support loss is nan in episode 101 at inner step 0"):
            compute()


@pytest.mark.parametrize("at_once", [False, True])
def test_checks_of_support_losses_can_be_deferred(at_once, small_learner, random_batch):
    learner, batch = small_learner("maml"), random_batch(n_episodes=2)
    learner.tasks_at_once = at_once

    with deferred() as conditions:
        learner.loss(dataclasses.replace(batch, support_images=batch.support_images * torch.nan), 0)

    assert len(conditions) == learner.settings.inner_steps * (1 if at_once else 2)
    assert not any(conditions)


def test_cpus_adapt_one_task_after_the_other(small_learner):
    learner = small_learner("maml")
    assert not learner.adapts_at_once
    assert learner.episodes_per_backward == 1


@pytest.mark.parametrize(("settings", "episodes"), [({}, None), ({"checkpoint_inner_steps": True}, 1)])
def test_all_tasks_adapted_at_once_are_differentiated_together_unless_memory_is_to_be_saved(
    settings, episodes, small_learner
):
    learner = small_learner("maml", **settings)
    learner.tasks_at_once = True
    assert learner.episodes_per_backward == episodes
