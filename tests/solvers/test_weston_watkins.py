"""The Weston-Watkins dual, solved class by class, has the optimum and the adjoint of the box program it stands for."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from fewshot.solvers import box_program, weston_watkins
from fewshot.solvers.weston_watkins import weston_watkins as solve

COUPLING = 1 - 5e-5
SIZES = [(5, 5, 40), (2, 1, 8), (8, 3, 64), (3, 4, 16)]  # classes, samples of a class, features


def draw(n_way, n_shot, n_features, n_problems=3, seed=0):
    """Return kernels (T, S, S) and labels (T, S) in random order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.randperm(n_way * n_shot, generator=generator) % n_way for _ in range(n_problems)])
    centres = torch.randn(n_problems, n_way, n_features, generator=generator, dtype=torch.float64)
    noise = torch.randn(*labels.shape, n_features, generator=generator, dtype=torch.float64)
    features = centres.gather(1, labels.unsqueeze(2).expand(-1, -1, n_features)) + 0.8 * noise
    return features @ features.mT + 1, labels


def to_coefficients(labels, n_way):
    """Return the matrix (S M, S M) from variables a, ordered i * M + m, to [y_i = m] sum_k a_ik - a_im."""
    own = torch.nn.functional.one_hot(labels, n_way).double()
    return torch.block_diag(*[row.unsqueeze(1).expand(-1, n_way) - torch.eye(n_way).double() for row in own])


def dense_matrix(kernel, labels, n_way, coupling):
    """Return H (S M, S M) from its definition: with coupling 1, a^T H a = sum over classes of c^T K c."""
    spread = torch.kron(kernel, torch.eye(n_way, dtype=torch.float64))
    change = to_coefficients(labels, n_way)
    own = change + torch.eye(len(change), dtype=torch.float64)
    return change.mT @ spread @ change + (1 - coupling) * (own.mT @ spread + spread @ own)


def reference(kernel, labels, n_way, bound, coupling=COUPLING):
    """Return the solution of the box program of one problem, with all S M variables."""
    upper = (bound * (1 - torch.nn.functional.one_hot(labels, n_way).double())).flatten()
    return box_program(dense_matrix(kernel, labels, n_way, coupling), torch.full_like(upper, 2.0), upper)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bound", [1e-5, 3e-3, 0.02, 1.0])
def test_optimum_and_adjoint_are_those_of_the_box_program(size, bound):
    n_way = size[0]
    kernel, labels = draw(*size)
    found = solve(kernel, labels, n_way, bound, COUPLING)
    gradient = torch.randn(found.alpha.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    adjoint = found.adjoint(gradient)

    assert found.converged.all()
    assert found.kkt_residual.max() < 1e-10
    for t in range(len(labels)):
        expected = reference(kernel[t], labels[t], n_way, bound)
        assert expected.converged
        torch.testing.assert_close(found.alpha[t].flatten(), expected.alpha, rtol=1e-9, atol=1e-11 * bound)
        torch.testing.assert_close(adjoint[t].flatten(), expected.adjoint(gradient[t].flatten()), rtol=1e-8, atol=1e-10)


def test_some_of_these_bounds_leave_free_and_bound_variables():
    kernel, labels = draw(*SIZES[0])
    alpha = solve(kernel, labels, 5, 0.02, COUPLING).alpha
    shares = [float(part.double().mean()) for part in (alpha == 0, alpha == 0.02, (alpha > 0) & (alpha < 0.02))]
    assert min(shares) > 0.01


def test_optimum_is_that_of_scipy():
    """With coupling 1, H = L^T L for L = (root of K) (coefficients), so the dual is a bounded least-squares problem."""
    kernel, labels = draw(4, 3, 30, n_problems=1, seed=2)
    n_way, bound, eye = 4, 0.02, torch.eye(4, dtype=torch.float64)
    factor = torch.kron(torch.linalg.cholesky(kernel[0]).mT, eye) @ to_coefficients(labels[0], n_way)
    kept = (1 - torch.nn.functional.one_hot(labels[0], n_way)).bool().flatten()
    factor = factor[:, kept].numpy()
    target = np.linalg.lstsq(factor.T, np.full(kept.sum(), 2.0), rcond=None)[0]

    found = solve(kernel, labels, n_way, bound, 1.0).alpha[0].flatten()[kept]

    expected = lsq_linear(factor, target, (0, bound), method="bvls", tol=1e-14).x
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_classes_may_differ_in_size():
    kernel, _ = draw(4, 3, 30, n_problems=2)
    labels = torch.tensor([[0] * 8 + [1, 2, 3, 3], [3, 1, 2, 0, 1, 1, 1, 1, 1, 2, 2, 0]])
    found = solve(kernel, labels, 4, 0.02, COUPLING)
    for t in range(2):
        expected = reference(kernel[t], labels[t], 4, 0.02).alpha
        torch.testing.assert_close(found.alpha[t].flatten(), expected, rtol=1e-9, atol=1e-13)


def test_problems_solved_in_chunks_are_the_same(monkeypatch):
    kernel, labels = draw(5, 5, 40)
    gradient = torch.ones(3, 25, 5, dtype=torch.float64)
    whole = solve(kernel, labels, 5, 0.02, COUPLING)
    monkeypatch.setattr(weston_watkins, "CHUNK_BYTES", 1)
    parts = solve(kernel, labels, 5, 0.02, COUPLING)

    torch.testing.assert_close(parts.alpha, whole.alpha, rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(parts.adjoint(gradient), whole.adjoint(gradient), rtol=1e-9, atol=1e-13)
    assert parts.converged.all()
    assert parts.kkt_residual.shape == parts.iterations.shape == (3,)


def test_thirty_ways_are_solved_without_the_matrix_of_all_variables():
    """The dense matrix would take 162 MB for each problem."""
    kernel, labels = draw(30, 5, 200, n_problems=1)
    found = solve(kernel, labels, 30, 0.01, COUPLING)
    assert found.converged.all()
    assert ((found.alpha > 0) & (found.alpha < 0.01)).any()


def test_what_is_not_finite_has_not_converged():
    kernel, labels = draw(3, 2, 10)
    kernel[1, 0, 0] = torch.nan
    assert solve(kernel, labels, 3, 0.02, COUPLING).converged.tolist() == [True, False, True]
