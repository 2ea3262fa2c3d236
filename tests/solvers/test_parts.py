"""The pieces behind the exact solver, and the solvers beside it."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from fewshot.solvers import crammer_singer, pivoting_torch, saddle
from fewshot.solvers.box import box_program
from fewshot.solvers.certificate import kkt_residual
from fewshot.solvers.pivoting_torch import one_hot
from fewshot.solvers.truncated import by_qpth, truncated


def test_rounds_without_word_from_the_device_change_nothing(draw_features, monkeypatch):
    """The path of accelerators, run on the CPU: solved problems stay in the batch, no packing, fixed rounds."""
    features, labels = draw_features(6, 5, 5)
    kernel = features @ features.mT
    expected = crammer_singer(kernel, labels, 5, backend="torch")
    for module in (pivoting_torch, saddle):
        monkeypatch.setattr(module, "on_host", lambda tensor: False)
    found = crammer_singer(kernel, labels, 5, backend="torch")
    torch.testing.assert_close(found.alpha, expected.alpha, rtol=1e-10, atol=1e-13)
    assert found.converged.all()
    assert found.iterations.tolist() == expected.iterations.tolist()


@pytest.mark.parametrize("threshold", [0, 10**6])
def test_packing_changes_nothing(draw_features, monkeypatch, threshold):
    features, labels = draw_features(2, 5, 10)
    kernel = features @ features.mT
    expected = crammer_singer(kernel, labels, 5, backend="numba").alpha
    monkeypatch.setattr(saddle, "PACK_FROM", threshold)
    found = crammer_singer(kernel, labels, 5, backend="torch").alpha
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_residual_measures_each_violation(draw_features):
    features, labels = draw_features(1, 3, 4)
    kernel = features @ features.mT
    alpha = crammer_singer(kernel, labels, 3).alpha.mT
    largest = alpha.abs().max()

    def residual(change):
        return kkt_residual(kernel, labels, alpha + change, 0.1, 1.0).item()

    above, sums = torch.zeros_like(alpha), torch.zeros_like(alpha)
    wrong_class = (labels[0, 0] + 1) % 3
    above[0, wrong_class, 0], above[0, labels[0, 0], 0] = 0.01 * largest - alpha[0, wrong_class, 0], 0.0
    sums[0, labels[0, 0], 0] = -0.01 * largest
    assert residual(0 * alpha) < 1e-14
    assert residual(above) >= 0.0099
    assert residual(sums) >= 0.0099
    assert residual(torch.full_like(alpha, torch.nan)) == np.inf
    assert kkt_residual(kernel, labels, (one_hot(labels, 3) - 1 / 3) * 0.01, 0.1, 1.0).item() > 1e-3


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("kind", ["low rank", "clusters"])
def test_truncated_has_the_iterates_of_qpth(draw_features, iterations, kind):
    features, labels = draw_features(3, 4, 3, 30, kind=kind)
    kernel = (features @ features.mT).requires_grad_()
    arguments = (kernel, labels, 4, 0.1, 1.0, iterations, torch.float64)
    weight = torch.randn(3, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = by_qpth(*arguments).alpha
    solution, adjoint = truncated(*arguments)
    torch.testing.assert_close(solution.alpha, expected, rtol=1e-7, atol=1e-10)
    (expected_gradient,) = torch.autograd.grad(expected, kernel, weight)
    half = adjoint(weight.mT).mT @ solution.alpha.mT
    gradient = -0.5 * (half + half.mT)
    symmetric = 0.5 * (expected_gradient + expected_gradient.mT)
    torch.testing.assert_close(gradient, symmetric, rtol=1e-6, atol=1e-9)


def test_one_iteration_is_a_ridge_classifier(draw_features):
    features, labels = draw_features(2, 5, 3)
    kernel = features @ features.mT
    solution, _ = truncated(kernel, labels, 5, 0.1, 1.0, 1, torch.float64)
    matrix = kernel + 2 * torch.eye(15, dtype=torch.float64)
    expected = 1.1 * torch.linalg.solve(matrix, one_hot(labels, 5).mT - 0.2)
    torch.testing.assert_close(solution.alpha, expected, rtol=1e-9, atol=1e-12)
    assert not solution.converged.any()


def draw_box_problem(seed, n=12, upper=0.3):
    generator = np.random.default_rng(seed)
    factor = generator.standard_normal((n + 3, n))
    target = generator.standard_normal(n + 3)
    limits = upper * generator.random(n)
    limits[0] = 0.0
    return factor, target, limits


@pytest.mark.parametrize("seed", range(10))
def test_box_program_against_bounded_least_squares(seed):
    factor, target, limits = draw_box_problem(seed)
    found = box_program(*(torch.from_numpy(v)[None] for v in (factor.T @ factor, factor.T @ target, limits)))
    expected = lsq_linear(factor[:, 1:], target, (0, limits[1:]), tol=1e-14, method="bvls").x
    assert found.converged.all()
    np.testing.assert_allclose(found.x[0, 1:], expected, atol=1e-9)
    assert found.x[0, 0] == 0  # its upper bound is 0


def test_box_program_solves_a_batch_as_a_loop():
    problems = [draw_box_problem(seed) for seed in range(6)]
    matrix, linear, upper = (
        torch.from_numpy(np.stack(values))
        for values in zip(*((f.T @ f, f.T @ t, u) for f, t, u in problems), strict=True)
    )
    batch = box_program(matrix, linear, upper)
    for t in range(6):
        single = box_program(matrix[t : t + 1], linear[t : t + 1], upper[t : t + 1])
        torch.testing.assert_close(batch.x[t], single.x[0], rtol=1e-10, atol=1e-12)


def test_box_program_adjoint_is_the_derivative():
    factor, target, limits = draw_box_problem(1)
    matrix, linear, upper = (torch.from_numpy(v)[None] for v in (factor.T @ factor, factor.T @ target, limits))
    weight = torch.randn(1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    direction, step = direction + direction.mT, 1e-6
    solution = box_program(matrix, linear, upper)
    assert 0 < solution.free.double().mean() < 1
    v = solution.adjoint(weight)
    found = -(v[0] @ direction[0] @ solution.x[0])
    sides = [box_program(matrix + sign * step * direction, linear, upper).x for sign in (1, -1)]
    torch.testing.assert_close(found, ((sides[0] - sides[1]) * weight).sum() / (2 * step), rtol=1e-6, atol=1e-10)
