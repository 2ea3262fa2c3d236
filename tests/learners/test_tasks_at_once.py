"""All tasks of a batch at once, as on accelerators, give the numbers of one task after the other, in few operations."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot.checks import deferred
from fewshot.errors import NumericalError
from fewshot.learners import ADAPTIVE_LEARNERS, MAML, LearnerContext, maml

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
    name, settings, small_learner, random_batch, outer_gradients, as_on
):
    learner = small_learner(name, **settings)
    batch = random_batch(n_episodes=3, image_size=learner.context.image_size)

    def computed(at_once):
        learner.tasks_at_once = at_once
        output = learner.loss(batch, 0)
        return {
            "loss": output.loss,
            "accuracy": output.accuracy,
            "logits": learner.logits(batch),
            **outer_gradients(learner, batch),
        }

    on_cpu = [computed(at_once=False), computed(at_once=True)]
    as_on("accelerator")
    expected = computed(at_once=False)

    for found in (*on_cpu, computed(at_once=True)):
        assert found.keys() == expected.keys()
        for value, result in expected.items():
            torch.testing.assert_close(found[value], result, **CLOSE, msg=value)


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
def test_the_number_of_operations_does_not_grow_with_the_tasks(
    name, small_learner, random_batch, outer_gradients, as_on
):
    as_on("accelerator")
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


@pytest.mark.parametrize(
    ("changes", "episodes"),
    [
        ({"filters": 16, "image_size": 32}, 22),
        ({"filters": 48, "image_size": 84}, 1),
        ({"filters": 16, "image_size": 32, "batch_norm": "support"}, 1),
        ({"backbone_settings": {"pooling": "stride"}}, 1),
        ({"checkpoint_inner_steps": True}, 1),
    ],
)
def test_cpus_adapt_as_many_tasks_at_once_as_their_caches_serve(changes, episodes, small_learner):
    assert small_learner("maml", **changes).episodes_per_backward == episodes


def test_parts_of_a_batch_adapted_at_once_give_the_result_of_the_whole(small_learner, random_batch, monkeypatch):
    learner, batch = small_learner("maml"), random_batch(n_episodes=3)
    expected = learner.loss(batch, 0).loss, learner.logits(batch)

    monkeypatch.setattr(maml, "VALUES_PER_PASS", 2 * 3 * maml.QUERIES_PER_CLASS * learner.network.backbone.largest_map)

    assert learner.episodes_per_pass == 2
    torch.testing.assert_close((learner.loss(batch, 0).loss, learner.logits(batch)), expected, **CLOSE)


@pytest.mark.parametrize(("settings", "episodes"), [({}, None), ({"checkpoint_inner_steps": True}, 1)])
def test_all_tasks_adapted_at_once_are_differentiated_together_unless_memory_is_to_be_saved(
    settings, episodes, small_learner
):
    learner = small_learner("maml", **settings)
    learner.tasks_at_once = True
    assert learner.episodes_per_backward == episodes
