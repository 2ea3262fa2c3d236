"""Options of the published programs: ALFA without a learned initialisation, L2F's graph, MAML++'s clamp."""

import pytest
import torch

from fewshot.learners import ADAPTIVE_LEARNERS
from fewshot.learners.inner_loop import split_tasks
from fewshot.learners.settings import ALFASettings, CxGradSettings, MAMLPlusPlusSettings

RANDOM = {"random_initialization": True}


@pytest.mark.parametrize("settings", [{}, {"attenuate": True}, {"second_order": False}])
def test_alfa_without_learned_initialization_trains_all_but_the_network(
    settings, small_learner, random_batch, outer_gradients
):
    learner = small_learner("alfa", **RANDOM, **settings)
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.1, weight_decay=0.1)

    gradients = outer_gradients(learner, random_batch())
    optimizer.step()

    own = {name for name, _ in learner.named_parameters() if not name.startswith("network.")}
    assert gradients.keys() == own
    assert len(learner.weight_decays) == len(learner.adaptable) == 6
    assert all(torch.equal(value, before[name]) for name, value in learner.network.state_dict().items())
    assert learner.logits(random_batch()).isfinite().all()


def test_alfa_without_learned_initialization_starts_like_alfa(small_learner, random_batch):
    """1 * 5e-6 is the same decay as 5e-6 alone."""
    plain, fixed = small_learner("alfa"), small_learner("alfa", **RANDOM)
    torch.testing.assert_close(fixed.logits(random_batch()), plain.logits(random_batch()), rtol=1e-9, atol=1e-12)


def test_alfa_without_learned_initialization_decays_each_weight_by_its_own_factor(small_learner, random_batch):
    learner = small_learner("alfa", inner_learning_rate=0.0, inner_steps=1, **RANDOM)
    task = next(split_tasks(random_batch()))
    with torch.no_grad():
        learner.generator[2].weight.zero_()
        learner.generator[2].bias.fill_(0.5)
        learner.weight_decays[0].copy_(torch.rand_like(learner.weight_decays[0]))
        learner.decays[0].fill_(3.0)
    weight = learner.network.get_parameter(learner.adaptable[0])

    updated = next(iter(learner.adapt(task, 0))).updated[learner.adaptable[0]]

    torch.testing.assert_close(updated, (1 - 0.5 * 3.0 * learner.weight_decays[0]) * weight, rtol=1e-12, atol=1e-12)


def test_gradients_of_alfa_without_learned_initialization_equal_finite_differences(
    small_learner, random_batch, outer_gradients
):
    learner, batch = small_learner("alfa", inner_steps=1, **RANDOM), random_batch()
    found = outer_gradients(learner, batch)["weight_decays.1"]

    assert slope(learner, batch, learner.weight_decays[1], 1e-4) == pytest.approx(found.sum().item(), rel=1e-5)


@pytest.mark.parametrize(("second_order", "equal"), [(True, True), (False, False)])
def test_attenuation_keeps_the_graph_of_its_gradient_means_in_second_order(
    second_order, equal, small_learner, random_batch, outer_gradients
):
    """The outer gradient of a weight equals finite differences only with the graph of all inner gradients."""
    learner = small_learner("alfa", attenuate=True, inner_steps=1, inner_learning_rate=0.0, second_order=second_order)
    with torch.no_grad():  # so that the factors change noticeably with the gradients
        learner.attenuator[0].weight.mul_(1000)
        learner.attenuator[2].weight.mul_(4)
    batch, weight = random_batch(), learner.network.head.weight
    found = outer_gradients(learner, batch)["network.head.weight"][0].sum().item()

    assert (slope(learner, batch, weight[0], 1e-6) == pytest.approx(found, rel=1e-4)) == equal


def slope(learner, batch, parameter, step):
    """Return the derivative of the outer loss as all entries of a parameter grow, by central differences."""
    losses = []
    for change in (step, -2 * step):
        with torch.no_grad():
            parameter.add_(change)
        losses.append(learner.loss(batch, 0).loss.item())
    return (losses[0] - losses[1]) / (2 * step)


def test_outer_gradients_of_the_network_are_clamped_but_not_those_of_the_rates(
    small_learner, random_batch, outer_gradients
):
    learner = small_learner("mamlpp", clamp_outer_gradient=1e-3)
    plain = outer_gradients(learner, random_batch())

    learner.limit_gradients()

    found = {name: parameter.grad for name, parameter in learner.named_parameters()}
    for name, gradient in plain.items():
        expected = gradient.clamp(-1e-3, 1e-3) if name.startswith("network.") else gradient
        assert torch.equal(found[name], expected), name
    assert max(gradient.abs().max() for gradient in plain.values()) > 2e-3


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_gradients_are_not_limited_by_default(name, small_learner, random_batch, outer_gradients):
    learner = small_learner(name)
    plain = outer_gradients(learner, random_batch())
    learner.limit_gradients()
    assert all(torch.equal(learner.get_parameter(n).grad, gradient) for n, gradient in plain.items())


@pytest.mark.parametrize(
    ("settings_type", "given"),
    [
        (MAMLPlusPlusSettings, {"clamp_outer_gradient": 10.0}),
        (ALFASettings, {"random_initialization": True}),
        (CxGradSettings, {"contextual": False}),
        (CxGradSettings, {"query_precision": "bfloat16"}),
    ],
)
def test_an_option_is_recorded_only_when_it_is_used(settings_type, given):
    (name,) = given
    assert name not in settings_type().model_dump()
    assert settings_type(**given).model_dump() == settings_type().model_dump() | given
