"""The components of the exact solver, the truncated solvers and box-constrained programs."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from fewshot.solvers import Problem, box_program, crammer_singer, kkt_residual, pivoting_torch, saddle
from fewshot.solvers.truncated import by_qpth, truncated


def one_hot(labels, n_way):
    return torch.nn.functional.one_hot(labels, n_way).double()


def test_rounds_without_synchronisation_change_nothing(draw_features, monkeypatch):
    """The code path of accelerators on the CPU: solved problems stay in the batch, no packing, fixed rounds."""
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
    alpha = crammer_singer(kernel, labels, 3).alpha
    largest = alpha.abs().max()

    def residual(change):
        return kkt_residual(kernel, labels, alpha + change, 0.1, 1.0).item()

    above, sums = torch.zeros_like(alpha), torch.zeros_like(alpha)
    wrong_class = (labels[0, 0] + 1) % 3
    above[0, 0, wrong_class] = 0.01 * largest - alpha[0, 0, wrong_class]
    sums[0, 0, labels[0, 0]] = -0.01 * largest
    assert residual(0 * alpha) < 1e-14
    assert residual(above) >= 0.0099
    assert residual(sums) >= 0.0099
    assert residual(torch.full_like(alpha, torch.nan)) == np.inf
    assert kkt_residual(kernel, labels, (one_hot(labels, 3) - 1 / 3) * 0.01).item() > 1e-3


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("kind", ["low rank", "clusters"])
def test_truncated_has_the_iterates_of_qpth(draw_features, iterations, kind):
    features, labels = draw_features(3, 4, 3, 30, kind=kind)
    kernel = (features @ features.mT).requires_grad_()
    problem = Problem(kernel, labels, 4)
    weight = torch.randn(3, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = by_qpth(problem, iterations, torch.float64).alpha
    solution = truncated(problem, iterations, torch.float64)
    torch.testing.assert_close(solution.alpha, expected, rtol=1e-7, atol=1e-10)
    (expected_gradient,) = torch.autograd.grad(expected, kernel, weight)
    half = solution.adjoint(weight) @ solution.alpha.mT
    gradient = -0.5 * (half + half.mT)
    symmetric = 0.5 * (expected_gradient + expected_gradient.mT)
    torch.testing.assert_close(gradient, symmetric, rtol=1e-6, atol=1e-9)


def test_one_iteration_is_a_ridge_classifier(draw_features):
    features, labels = draw_features(2, 5, 3)
    kernel = features @ features.mT
    solution = truncated(Problem(kernel, labels, 5), 1, torch.float64)
    matrix = kernel + 2 * torch.eye(15, dtype=torch.float64)
    expected = 1.1 * torch.linalg.solve(matrix, one_hot(labels, 5) - 0.2)
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
    np.testing.assert_allclose(found.alpha[0, 1:], expected, atol=1e-9)
    assert found.alpha[0, 0] == 0  # its upper bound is 0


def test_box_program_solves_a_batch_as_a_loop():
    problems = [draw_box_problem(seed) for seed in range(6)]
    matrix, linear, upper = (
        torch.from_numpy(np.stack(values))
        for values in zip(*((f.T @ f, f.T @ t, u) for f, t, u in problems), strict=True)
    )
    batch = box_program(matrix, linear, upper)
    for t in range(6):
        single = box_program(matrix[t], linear[t], upper[t])
        torch.testing.assert_close(batch.alpha[t], single.alpha, rtol=1e-10, atol=1e-12)


def test_box_program_adjoint_is_the_derivative():
    factor, target, limits = draw_box_problem(1)
    matrix, linear, upper = (torch.from_numpy(v)[None] for v in (factor.T @ factor, factor.T @ target, limits))
    weight = torch.randn(1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    direction, step = direction + direction.mT, 1e-6
    solution = box_program(matrix, linear, upper)
    assert ((solution.alpha > 0) & (solution.alpha < upper)).any()
    assert (solution.alpha == upper).sum() > 1  # one upper bound is 0
    v = solution.adjoint(weight)
    found = -(v[0] @ direction[0] @ solution.alpha[0])
    sides = [box_program(matrix + sign * step * direction, linear, upper).alpha for sign in (1, -1)]
    torch.testing.assert_close(found, ((sides[0] - sides[1]) * weight).sum() / (2 * step), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": torch.eye(3).repeat(2, 1, 1)[:, :2]}, r"matrix has shape \(2, 2, 3\)"),
        ({"matrix": torch.eye(3, dtype=torch.int64)}, "matrix .* allowed: float32 or float64"),
        ({"matrix": torch.eye(3)}, r"linear has shape \(2, 3\) .* of shape \(3,\)"),
        ({"linear": torch.ones(2, 4)}, r"linear has shape \(2, 4\) .* of shape \(2, 3\)"),
        ({"upper": torch.ones(2, 3, dtype=torch.int64)}, "upper .* allowed: float32 or float64"),
        ({"upper": -torch.ones(2, 3)}, "upper holds -1.0; allowed: 0 or more"),
        ({"upper": torch.full((2, 3), torch.nan)}, "upper holds nan; allowed: 0 or more"),
    ],
)
def test_box_program_checks_its_arguments(change, message):
    arguments = {"matrix": torch.eye(3).repeat(2, 1, 1), "linear": torch.ones(2, 3), "upper": torch.ones(2, 3)}
    with pytest.raises(ValueError, match=message):
        box_program(**{**arguments, **change})


def test_box_program_reports_what_did_not_converge():
    found = box_program(torch.full((2, 2), torch.nan), torch.ones(2), torch.ones(2))
    assert not found.converged
    assert found.kkt_residual == np.inf
