"""Outer gradients of the gradient-based learners: finite differences, and where orders or implementations agree."""

import dataclasses

import pytest
import torch

from fewshot.learners import ADAPTIVE_LEARNERS
from fewshot.learners.inner_loop import split_tasks, starting_weights

SECOND_ORDER = [name for name in ADAPTIVE_LEARNERS if name != "fomaml"]
SLICE = ("support_images", "support_labels", "query_images", "query_labels", "episode_ids")


def slope(learner, batch, parameter, direction, step=1e-7):
    """Return the derivative of the outer loss along a direction of a parameter, by central differences."""
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(sign * step * direction)
        losses.append(learner.loss(batch, 0).loss.item())
        with torch.no_grad():
            parameter.sub_(sign * step * direction)
    return (losses[0] - losses[1]) / (2 * step)


def assert_slopes(learner, batch, gradients, names):
    parameters = dict(learner.named_parameters())
    generator = torch.Generator().manual_seed(3)
    for name in names:
        direction = torch.randn(parameters[name].shape, generator=generator, dtype=torch.float64)
        expected = (gradients[name] * direction).sum().item()
        assert slope(learner, batch, parameters[name], direction) == pytest.approx(expected, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("name", ["maml", "anil", "boil", "mamlpp"])
@pytest.mark.parametrize("batch_norm", ["transductive", "support", "per_query"])
def test_gradients_equal_finite_differences(name, batch_norm, small_learner, random_batch, outer_gradients):
    learner, batch = (
        small_learner(name, batch_norm=batch_norm, image_size=16 if batch_norm != "per_query" else 32),
        None,
    )
    batch = random_batch(image_size=learner.context.image_size)
    gradients = outer_gradients(learner, batch)

    assert_slopes(learner, batch, gradients, gradients)


def test_gradients_of_cxgrad_equal_finite_differences(small_learner, random_batch, outer_gradients):
    """The first context is a constant to the outer loop, so it is fixed while the weights change."""
    learner, batch = small_learner("cxgrad", context_size=6, inner_learning_rate=0.01), random_batch()
    task = next(split_tasks(batch))
    context = starting_weights(learner, task)["context"]
    learner.initial_weights = lambda task: learner.learned_weights() | {"context": context}
    learner.moved_at_start = lambda fast: []
    gradients = outer_gradients(learner, batch)

    assert_slopes(learner, batch, gradients, gradients)


def test_gradients_of_alfa_equal_finite_differences(small_learner, random_batch, outer_gradients):
    """Gradient means are constants to the outer loop; with one step they do not depend on ALFA's own parameters."""
    learner, batch = small_learner("alfa", inner_steps=1), random_batch()
    gradients = outer_gradients(learner, batch)

    assert_slopes(learner, batch, gradients, [name for name in gradients if not name.startswith("network")])


def test_first_order_gradient_is_that_of_the_query_loss_at_the_fast_weights(
    small_learner, random_batch, outer_gradients
):
    learner, batch = small_learner("fomaml"), random_batch()
    task = next(split_tasks(batch))
    fast = {name: w.detach().requires_grad_() for name, w in list(learner.adapt(task, 0))[-1].updated.items()}
    loss = torch.nn.functional.cross_entropy(learner.query_logits(task, fast, 1), task.query_labels)
    expected = dict(zip(fast, torch.autograd.grad(loss, list(fast.values())), strict=True))

    found = outer_gradients(learner, batch)

    for name, gradient in expected.items():
        torch.testing.assert_close(found[f"network.{name}"], gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["maml", "anil", "boil"])
def test_first_and_second_order_agree_at_zero_inner_rate(name, small_learner, random_batch, outer_gradients):
    batch = random_batch()
    found = [
        outer_gradients(small_learner(name, inner_learning_rate=0.0, second_order=second_order), batch)
        for second_order in (True, False)
    ]
    assert_equal_gradients(*found)


def test_first_and_second_order_differ_otherwise(small_learner, random_batch, outer_gradients):
    batch = random_batch()
    second, first = (outer_gradients(small_learner(name), batch) for name in ("maml", "fomaml"))
    assert any(not torch.allclose(second[name], first[name], rtol=1e-3) for name in second)


def test_first_order_epochs_come_first(small_learner, random_batch, outer_gradients):
    batch, learner = random_batch(), small_learner("maml", first_order_epochs=1)
    assert_equal_gradients(outer_gradients(learner, batch, step=9), outer_gradients(small_learner("fomaml"), batch))
    assert_equal_gradients(outer_gradients(learner, batch, step=10), outer_gradients(small_learner("maml"), batch))


@pytest.mark.parametrize("name", [name for name in SECOND_ORDER if name != "anil"])
def test_recomputed_inner_steps_give_the_same_gradients(name, small_learner, random_batch, outer_gradients):
    batch = random_batch()
    kept, recomputed = (
        outer_gradients(small_learner(name, checkpoint_inner_steps=flag), batch) for flag in (False, True)
    )
    assert_equal_gradients(kept, recomputed)


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_a_batch_is_the_mean_of_its_tasks_in_any_order(name, small_learner, random_batch, outer_gradients):
    learner, batch = small_learner(name), random_batch(n_episodes=3)
    alone = [outer_gradients(learner, task) for task in batch.chunks(1)]
    mean = {key: torch.stack([gradients[key] for gradients in alone]).mean(0) for key in alone[0]}
    turned = dataclasses.replace(batch, **{key: getattr(batch, key).flip(0) for key in SLICE})

    assert_equal_gradients(outer_gradients(learner, batch), mean)
    assert_equal_gradients(outer_gradients(learner, turned), mean)
    torch.testing.assert_close(learner.logits(turned).flip(0), learner.logits(batch), rtol=1e-12, atol=1e-12)


def assert_equal_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-11, atol=1e-12)
