"""What CxGrad's gammas can and cannot do: the loss does not depend on them, and constants can replace the context."""

import pytest
import torch
from torch.nn import functional as F

from fewshot.backbones import conv4_maml
from fewshot.learners.inner_loop import split_tasks


def support_loss_and_gradients(learner, task, factor=1.0):
    """Return the first support loss, and its gradients with respect to the convolutions and the context."""
    start = learner.learned_weights() | {"context": torch.zeros(100, dtype=torch.float64, requires_grad=True)}
    used = learner.rescale(start)
    used |= {name: factor * used[name] for name in learner.convolutions}
    loss = F.cross_entropy(learner.support_logits(task, used, 0), task.support_labels)
    *convolutions, context = torch.autograd.grad(loss, [used[n] for n in learner.convolutions] + [start["context"]])
    return loss.item(), min(g.norm().item() for g in convolutions), context.norm().item()


@pytest.fixture
def at_epsilon(small_learner, random_batch, monkeypatch):
    """Return a function that computes loss and gradient norms with another epsilon of batch norm."""
    learner, task = small_learner("cxgrad"), next(split_tasks(random_batch()))

    def found(epsilon, factor=1.0):
        monkeypatch.setattr(conv4_maml, "BATCH_NORM_EPSILON", epsilon)
        return support_loss_and_gradients(learner, task, factor)

    return found


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_the_loss_does_not_depend_on_gamma_but_through_the_epsilon_of_batch_norm(factor, at_epsilon):
    def change(epsilon):
        return abs(at_epsilon(epsilon, factor)[0] / at_epsilon(epsilon)[0] - 1)

    assert change(1e-12) < 1e-9
    assert change(1e-5) > 1e-6


def test_the_gradient_of_the_context_is_small_and_vanishes_with_the_epsilon_of_batch_norm(at_epsilon):
    _, convolutions, context = at_epsilon(1e-5)
    _, _, smaller = at_epsilon(1e-7)

    assert 0 < context < 1e-3 * convolutions
    assert smaller / context == pytest.approx(0.01, rel=0.05)


def test_the_gradient_of_a_convolution_is_divided_by_its_norm(at_epsilon):
    assert at_epsilon(1e-12, factor=4.0)[1] == pytest.approx(at_epsilon(1e-12)[1] / 4, rel=1e-6)


@pytest.mark.parametrize("second_order", [True, False])
def test_constants_get_a_gradient_for_each_layer(second_order, small_learner, random_batch, outer_gradients):
    learner = small_learner("cxgrad", contextual=False, second_order=second_order)
    gradients = outer_gradients(learner, random_batch())

    assert (gradients["constants"] != 0).all()
    assert gradients.keys() == {name for name, _ in learner.named_parameters()}
    assert not [name for name in gradients if "generator" in name]


def test_constants_have_the_gradient_of_finite_differences(small_learner, random_batch, outer_gradients):
    learner, batch = small_learner("cxgrad", contextual=False, inner_learning_rate=0.01), random_batch()
    found = outer_gradients(learner, batch)["constants"].sum().item()
    losses = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            learner.constants.add_(step)
        losses.append(learner.loss(batch, 0).loss.item())

    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(found, rel=1e-5)


def test_constants_equal_a_generator_whose_output_is_constant(small_learner, random_batch, outer_gradients):
    values, batch = torch.tensor([0.3, -0.5, 1.0, 0.1], dtype=torch.float64), random_batch()
    contextual, control = small_learner("cxgrad"), small_learner("cxgrad", contextual=False)
    control.network.load_state_dict(contextual.network.state_dict())
    with torch.no_grad():
        control.constants.copy_(values)
        contextual.generator[2].weight.zero_()
        contextual.generator[2].bias.copy_(values)

    found, expected = outer_gradients(control, batch), outer_gradients(contextual, batch)

    assert torch.equal(control.logits(batch), contextual.logits(batch))
    torch.testing.assert_close(found["constants"], expected["generator.2.bias"], rtol=1e-9, atol=1e-12)
    assert (control.diagnose(batch)["gamma"] == F.softplus(values).detach().numpy()).all()


def test_constants_start_where_a_generator_without_output_would(small_learner):
    learner = small_learner("cxgrad", contextual=False)
    assert torch.allclose(learner.gammas({}), torch.tensor(2.0, dtype=torch.float64).log())
