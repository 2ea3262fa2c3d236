"""Frozen weights (`requires_grad_(False)`) are left alone by the inner and the outer loop of every learner."""

import pytest
import torch

from fewshot.errors import ParamsError
from fewshot.learners import ADAPTIVE_LEARNERS
from fewshot.learners.inner_loop import adapt_detached, split_tasks

STAGE, HEAD = "backbone.stages.1.", "head."
CASES = [
    *((name, {}) for name in ADAPTIVE_LEARNERS),
    *((name, {"second_order": False}) for name in ("maml", "boil", "mamlpp", "alfa", "cxgrad")),
    *((name, {"checkpoint_inner_steps": True}) for name in ("maml", "boil", "mamlpp", "alfa", "cxgrad")),
    ("alfa", {"attenuate": True}),
    ("cxgrad", {"per_layer_rates": True}),
]


def trained_by(learner, batch):
    """Return the weights that the outer gradient reaches."""
    learner.zero_grad()
    learner.loss(batch, 0).loss.backward()
    return {name for name, parameter in learner.network.named_parameters() if parameter.grad is not None}


def freeze(learner, prefix):
    for name, parameter in learner.network.named_parameters():
        if name.startswith(prefix):
            parameter.requires_grad_(False)


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("prefix", [STAGE, "backbone.stages.3.convolution", "backbone.stages.0.norm"])
def test_frozen_weights_stay_as_they_are_in_both_loops(name, settings, prefix, small_learner, random_batch):
    learner, batch = small_learner(name, **settings), random_batch()
    everything = trained_by(learner, batch)
    freeze(learner, prefix)
    frozen = {n: p.clone() for n, p in learner.network.named_parameters() if n.startswith(prefix)}
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, weight_decay=0.1)

    trained = trained_by(learner, batch)
    optimizer.step()

    assert frozen
    assert trained == everything - set(frozen)
    assert all(torch.equal(learner.network.get_parameter(n), value) for n, value in frozen.items())
    assert learner.eval().logits(batch).isfinite().all()


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_the_inner_loop_updates_all_adaptable_weights_but_the_frozen_ones(name, settings, small_learner, random_batch):
    learner = small_learner(name, **settings)
    everything = set(learner.adapted)
    freeze(learner, STAGE)
    task = learner.prepare(next(split_tasks(random_batch())))

    updated = set(list(adapt_detached(learner, task, 2))[-1].updated) - {"context"}

    assert updated == everything - {f"{STAGE}convolution.weight"} == set(learner.adapted)


def test_second_order_gradient_with_frozen_weights_is_that_of_finite_differences(small_learner, random_batch):
    learner, batch = small_learner("mamlpp", inner_learning_rate=0.3), random_batch()
    freeze(learner, "backbone.stages.2.")
    weight = learner.network.backbone.stages[1].convolution.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    learner.loss(batch, 0).loss.backward()
    losses = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            weight.add_(step * direction)
        losses.append(learner.loss(batch, 0).loss.item())

    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx((weight.grad * direction).sum().item(), rel=1e-5)


def test_weights_can_be_frozen_and_released_again(small_learner, random_batch):
    learner, batch = small_learner("alfa"), random_batch()
    before = learner.loss(batch, 0).loss
    freeze(learner, "backbone.stages.2.")
    frozen = learner.loss(batch, 0).loss
    learner.requires_grad_(True)

    assert not torch.isclose(frozen, before, rtol=1e-9)
    assert torch.equal(learner.loss(batch, 0).loss, before)


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_a_learner_with_nothing_left_to_adapt_says_so(name, small_learner, random_batch):
    learner = small_learner(name).requires_grad_(False)
    for use in (lambda: learner.loss(random_batch(), 0), lambda: learner.logits(random_batch())):
        with pytest.raises(ParamsError, match=r"has nothing to adapt: .* frozen; set requires_grad"):
            use()


def test_cxgrad_without_a_convolution_to_adapt_says_so(small_learner, random_batch):
    learner = small_learner("cxgrad")
    freeze(learner, "backbone.")
    with pytest.raises(ParamsError, match="CxGrad has no convolution to adapt: all are frozen"):
        learner.loss(random_batch(), 0)
