"""The logistic head against scikit-learn, and the limits of its penalty."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fewshot.errors import NumericalError
from fewshot.heads import build_head
from fewshot.heads.logistic_fit import logistic_fit


def episode(n_shot, n_features=20, unbalanced=False, size=1.0, seed=0):
    """Return support (1, S, d), labels (1, S) and query (1, 7, d)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(5).repeat(n_shot)
    labels = torch.cat([labels, torch.zeros(4, dtype=torch.long)]) if unbalanced else labels
    centres = torch.randn(5, n_features, generator=generator, dtype=torch.float64)
    support = centres[labels] + torch.randn(len(labels), n_features, generator=generator, dtype=torch.float64)
    query = torch.randn(7, n_features, generator=generator, dtype=torch.float64)
    return size * support[None], labels[None], size * query[None]


@pytest.mark.parametrize("loss_weight", [0.1, 1.0, 100.0])
@pytest.mark.parametrize(("n_shot", "unbalanced"), [(1, False), (5, False), (3, True)])
@pytest.mark.parametrize("size", [0.2, 5.0])
def test_probabilities_are_those_of_scikit_learn(loss_weight, n_shot, unbalanced, size):
    support, labels, query = episode(n_shot, unbalanced=unbalanced, size=size)
    reference = LogisticRegression(C=loss_weight, solver="newton-cg", tol=1e-9, max_iter=20_000)
    reference.fit(support[0].numpy(), labels[0].numpy())

    head = build_head("logistic", loss_weight=loss_weight).double().eval()
    found = head(support, labels, query).softmax(2)[0]

    np.testing.assert_allclose(found.detach(), reference.predict_proba(query[0].numpy()), rtol=0, atol=1e-6)
    assert head.take_certificates()["converged"].all()


def test_duplicate_images_leave_the_system_regular():
    support, labels, query = episode(3)
    twice, labels_twice = torch.cat([support, support], 1), torch.cat([labels, labels], 1)
    doubled = build_head("logistic", loss_weight=2.0).double()(support, labels, query)
    torch.testing.assert_close(build_head("logistic").double()(twice, labels_twice, query), doubled)


def test_the_intercept_is_not_penalised():
    """Almost without weights, the probabilities are the shares of the classes."""
    support, labels, query = episode(3, unbalanced=True)
    scores = build_head("logistic", loss_weight=1e-9).double()(support, labels, query)
    shares = torch.bincount(labels[0]) / labels.shape[1]
    torch.testing.assert_close(scores.softmax(2)[0], shares.double().expand(7, -1), rtol=1e-5, atol=0)


def test_hard_problems_converge_from_zero():
    support, labels, _ = episode(5, n_features=640, size=30.0)
    fit = logistic_fit(support @ support.mT, labels, 5, loss_weight=1e4)
    assert fit.converged.all()
    assert fit.intercept.mean().abs() < 1e-12


def test_episodes_are_solved_in_parts_that_fit_in_memory(monkeypatch):
    episodes = [episode(2, seed=seed) for seed in range(5)]
    kernels = torch.cat([support @ support.mT for support, _, _ in episodes])
    labels = torch.cat([labels for _, labels, _ in episodes])
    whole = logistic_fit(kernels, labels, 5, 1.0)
    monkeypatch.setattr("fewshot.heads.logistic_fit.SYSTEM_BYTES", 2 * 8 * (11 * 5) ** 2)
    parts = logistic_fit(kernels, labels, 5, 1.0)
    torch.testing.assert_close(parts.coefficients, whole.coefficients, rtol=1e-9, atol=1e-9)


def test_a_kernel_that_is_not_finite_is_refused():
    with pytest.raises(NumericalError, match="the support kernel of an episode is not finite"):
        logistic_fit(torch.full((1, 2, 2), torch.inf), torch.tensor([[0, 1]]), 2, 1.0)
