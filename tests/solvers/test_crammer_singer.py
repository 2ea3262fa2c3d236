"""The exact solver: certificates, references, hard cases, invariances, gradients, invalid arguments."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from fewshot.solvers import crammer_singer, kkt_residual

BACKENDS = ["numba", "torch"]
BOUND = 0.1
SIZES = [(8, 5, 1), (8, 5, 5), (2, 5, 15), (1, 5, 30), (1, 20, 5), (4, 2, 5)]
"""(problems, classes, samples per class)"""


def one_hot(labels, n_way):
    return torch.nn.functional.one_hot(labels, n_way).double()


def gram(features):
    return features @ features.mT


def duality_gap(kernel, labels, alpha):
    """Relative Frank-Wolfe gap, which bounds the distance to the optimal objective, (T,)."""
    targets = one_hot(labels, alpha.shape[2])
    gradient = kernel @ alpha + alpha - targets
    slack = BOUND * targets - alpha
    gap = (BOUND * gradient.amax(2) - (gradient * slack).sum(2)).sum(1)
    objective = 0.5 * (alpha * (kernel @ alpha + alpha)).sum((1, 2)) - (alpha * targets).sum((1, 2))
    return gap / objective.abs()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["low rank", "clusters"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_solution_is_certified(draw_features, size, kind, backend):
    features, labels = draw_features(*size, kind=kind)
    kernel = gram(features)
    solution = crammer_singer(kernel, labels, size[1], backend=backend)
    assert solution.converged.all()
    assert solution.kkt_residual.max() <= 1e-9
    assert duality_gap(kernel, labels, solution.alpha).max() <= 1e-9
    assert solution.alpha.sum(2).abs().max() <= 1e-15
    assert (solution.alpha - BOUND * one_hot(labels, size[1])).max() <= 1e-15
    residual = kkt_residual(kernel, labels, solution.alpha, BOUND, 1.0)
    assert residual.max() <= 1e-9


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_back_ends_agree(draw_features, size):
    features, labels = draw_features(*size, seed=1)
    by_numba, by_torch = (crammer_singer(gram(features), labels, size[1], backend=name) for name in BACKENDS)
    torch.testing.assert_close(by_numba.alpha, by_torch.alpha, rtol=1e-10, atol=1e-13)
    assert by_numba.iterations.tolist() == by_torch.iterations.tolist()


@pytest.mark.parametrize("size", [(5, 1), (5, 5), (3, 4), (2, 5)], ids=str)
def test_agrees_with_an_independent_solver(draw_features, size):
    clarabel = pytest.importorskip("clarabel")
    from scipy import sparse

    n_way, per_class = size
    features, labels = draw_features(1, *size, n_features=30, rank=5)
    kernel, n = gram(features)[0].numpy(), n_way * per_class
    targets = np.eye(n_way)[labels[0].numpy()].ravel()
    constraints = sparse.vstack([np.kron(np.eye(n), np.ones((1, n_way))), sparse.eye(n * n_way)]).tocsc()
    limits = np.concatenate([np.zeros(n), BOUND * targets])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-13
    quadratic = sparse.csc_matrix(np.triu(np.kron(kernel + np.eye(n), np.eye(n_way))))
    cones = [clarabel.ZeroConeT(n), clarabel.NonnegativeConeT(n * n_way)]
    result = clarabel.DefaultSolver(quadratic, -targets, constraints, limits, cones, settings).solve()
    if str(result.status) != "Solved":
        pytest.skip(f"the reference solver stopped at {result.status}")
    found = crammer_singer(gram(features), labels, n_way).alpha[0].numpy().ravel()
    np.testing.assert_allclose(found, result.x, atol=1e-6 * np.abs(found).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_way", [2, 3, 10, 50])
def test_any_number_of_classes(draw_features, n_way, backend):
    features, labels = draw_features(1, n_way, 2)
    assert crammer_singer(gram(features), labels, n_way, backend=backend).converged.all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_unbalanced_classes(draw_features, backend):
    features, _ = draw_features(1, 5, 5)
    labels = torch.tensor([[0] * 15 + [1] * 6 + [2] * 2 + [3] + [4]])
    solution = crammer_singer(gram(features), labels, 5, backend=backend)
    assert solution.converged.all()
    assert kkt_residual(gram(features), labels, solution.alpha, BOUND, 1.0).max() < 1e-12


HARD = {
    "duplicates": lambda x: torch.cat([x[:, :5], x[:, :20]], 1),
    "all equal": lambda x: x[:, :1].expand_as(x),
    "all zero": torch.zeros_like,
    "one zero": lambda x: torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], 1),
    **{f"scale {scale:g}": lambda x, scale=scale: x * scale for scale in (1e-4, 1e-2, 1e2, 1e4)},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", HARD)
@pytest.mark.parametrize("same_label", [True, False])
def test_degenerate_features(draw_features, change, same_label, backend):
    features, labels = draw_features(4, 5, 5)
    if same_label:
        labels = (torch.arange(25) % 5).expand(4, 25)
    kernel = gram(HARD[change](features)).requires_grad_()
    solution = crammer_singer(kernel, labels, 5, backend=backend)
    assert solution.converged.all()
    assert solution.kkt_residual.max() <= 1e-9
    (solution.alpha * torch.randn(4, 25, 5, dtype=torch.float64)).sum().backward()
    assert torch.isfinite(kernel.grad).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("n_features", [2, 10, 20, 40])
def test_more_samples_than_features(draw_features, n_features, scale, backend):
    """Plain pivoting cycles on several of these; the fallbacks do not."""
    features, labels = draw_features(4, 5, 15, n_features, kind="signed clusters")
    solution = crammer_singer(gram(scale * features), labels, 5, backend=backend)
    assert solution.converged.all()
    assert solution.kkt_residual.max() <= 1e-9


@pytest.mark.parametrize("backend", BACKENDS)
def test_rank_three_without_noise(draw_features, backend):
    features, labels = draw_features(4, 5, 5, rank=3, noise=0.0)
    assert crammer_singer(gram(features), labels, 5, backend=backend).converged.all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_continuation_alone_solves_what_cycles(draw_features, backend, monkeypatch):
    from fewshot.solvers import fallback

    features, labels = draw_features(2, 5, 15, 20, kind="signed clusters")
    kernel = gram(10 * features)
    expected = crammer_singer(kernel, labels, 5, backend=backend)
    unable = lambda pivot, problem, max_rounds: pivot(problem, 1)  # noqa: E731
    monkeypatch.setattr(fallback, "_from_interior_point", unable)
    found = crammer_singer(kernel, labels, 5, backend=backend, max_rounds=30)
    assert found.converged.all()
    torch.testing.assert_close(found.alpha, expected.alpha, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_problems_that_stay_unsolved_are_reported(draw_features, backend, monkeypatch):
    from fewshot.solvers import fallback

    unable = lambda pivot, problem, max_rounds: pivot(problem, 1)  # noqa: E731
    monkeypatch.setattr(fallback, "_from_interior_point", unable)
    monkeypatch.setattr(fallback, "_by_continuation", unable)
    features, labels = draw_features(3, 5, 5)
    solution = crammer_singer(gram(features), labels, 5, backend=backend, max_rounds=1)
    assert not solution.converged.any()
    assert solution.kkt_residual.min() > 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_equals_loop(draw_features, backend):
    features, labels = draw_features(6, 5, 5)
    kernel = gram(features)
    batch = crammer_singer(kernel, labels, 5, backend=backend)
    for t in range(6):
        single = crammer_singer(kernel[t : t + 1], labels[t : t + 1], 5, backend=backend)
        torch.testing.assert_close(batch.alpha[t], single.alpha[0], rtol=1e-12, atol=1e-14)
        assert batch.iterations[t] == single.iterations[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_problem_has_no_problem_axis(draw_features, backend):
    features, labels = draw_features(1, 5, 5)
    kernel = gram(features).requires_grad_()
    batch = crammer_singer(kernel, labels, 5, backend=backend)
    single = crammer_singer(kernel[0], labels[0], 5, backend=backend)
    assert torch.equal(single.alpha, batch.alpha[0])
    assert single.iterations == batch.iterations[0]
    assert single.converged
    assert kkt_residual(kernel[0], labels[0], single.alpha).shape == ()
    weight = torch.randn(25, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (by_batch,) = torch.autograd.grad(batch.alpha, kernel, weight[None])
    (by_single,) = torch.autograd.grad(single.alpha, kernel, weight)
    assert torch.equal(by_single, by_batch)
    half = single.adjoint(weight) @ single.alpha.mT
    torch.testing.assert_close(-0.5 * (half + half.mT), by_batch[0])


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (torch.zeros(2, 5, 3), r"alpha has shape \(2, 5, 3\) .* of shape \(2, 6, classes\)"),
        (torch.zeros(2, 6, 3, dtype=torch.int64), "alpha .* allowed: floating point"),
        (torch.zeros(2, 6, 2), r"labels holds 0 .. 2; allowed: 0 .. 1"),
    ],
)
def test_the_certificate_checks_its_arguments(alpha, message):
    with pytest.raises(ValueError, match=message):
        kkt_residual(torch.eye(6).repeat(2, 1, 1), torch.tensor([[0, 1, 2, 0, 1, 2]] * 2), alpha)


@pytest.mark.parametrize("backend", BACKENDS)
def test_permutation_of_samples_and_classes(draw_features, backend):
    features, labels = draw_features(2, 5, 5)
    kernel, generator = gram(features), torch.Generator().manual_seed(3)
    rows, classes = torch.randperm(25, generator=generator), torch.randperm(5, generator=generator)
    alpha = crammer_singer(kernel, labels, 5, backend=backend).alpha
    permuted = crammer_singer(kernel[:, rows][:, :, rows], classes[labels[:, rows]], 5, backend=backend).alpha
    torch.testing.assert_close(permuted[:, :, classes], alpha[:, rows], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_limits(draw_features, backend):
    features, labels = draw_features(2, 5, 3, kind="clusters")
    kernel, targets = gram(features), one_hot(labels, 5)
    identity = torch.eye(15, dtype=torch.float64)
    # bound to infinity, and wide margins: all entries would be free only if no wrong class has a positive coefficient
    tiny = crammer_singer(1e-12 * kernel, labels, 5, diagonal_shift=100.0, backend=backend).alpha
    torch.testing.assert_close(tiny, (targets - 0.2) / 100, rtol=1e-9, atol=0)
    alpha = torch.linalg.solve(kernel + 1e4 * identity, targets - 0.2)
    assert (alpha <= BOUND * targets).all()
    ridge = crammer_singer(kernel, labels, 5, diagonal_shift=1e4, backend=backend)
    torch.testing.assert_close(ridge.alpha, alpha, rtol=1e-9, atol=1e-16)
    assert ridge.iterations.tolist() == [1, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_features_give_the_clipped_targets(backend):
    labels = torch.arange(5)[None]
    alpha = crammer_singer(torch.zeros(1, 5, 5, dtype=torch.float64), labels, 5, backend=backend).alpha[0]
    expected = torch.full((5, 5), -BOUND / 4, dtype=torch.float64).fill_diagonal_(BOUND)
    torch.testing.assert_close(alpha, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("size", "n_features", "scale"), [((2, 3, 2), 6, 1.0), ((1, 3, 4), 3, 2.0), ((2, 5, 2), 4, 0.7)]
)
def test_gradient_with_active_bounds(draw_features, size, n_features, scale, backend):
    features, labels = draw_features(*size, n_features=n_features, rank=3)
    kernel = gram(scale * features)
    alpha = crammer_singer(kernel, labels, size[1], backend=backend).alpha
    at_bound = (BOUND * one_hot(labels, size[1]) - alpha < 1e-9).double().mean().item()
    assert 0.2 <= at_bound <= 0.6

    def symmetric(half):
        return crammer_singer(half @ half.mT, labels, size[1], backend=backend).alpha

    half = torch.linalg.cholesky(kernel + 0.1 * torch.eye(kernel.shape[1])).requires_grad_()
    assert torch.autograd.gradcheck(symmetric, half, eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_with_own_class_at_its_bound(draw_features, backend):
    features, labels = draw_features(2, 4, 3, n_features=5, rank=3)
    half = (0.05 * features).requires_grad_()
    alpha = crammer_singer(gram(half), labels, 4, backend=backend).alpha.detach()
    assert (alpha.amax(2) > BOUND - 1e-12).any()
    assert torch.autograd.gradcheck(
        lambda x: crammer_singer(gram(x), labels, 4, backend=backend).alpha, half, eps=1e-6, atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(2, 5, 5), (1, 5, 15)], ids=str)
def test_directional_derivative(draw_features, size, backend):
    features, labels = draw_features(*size, seed=2)
    direction = torch.randn(features.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(*labels.shape, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-6

    def loss(x):
        return (crammer_singer(gram(x), labels, 5, backend=backend).alpha * weight).sum()

    def margin(x):
        """Smallest strict complementarity: the gradient is two-sided only if the free set survives the step."""
        alpha = crammer_singer(gram(x), labels, 5).alpha
        targets = one_hot(labels, 5)
        multiplier = gram(x) @ alpha + alpha - targets
        multiplier = multiplier.amax(2, keepdim=True) - multiplier
        return torch.maximum((BOUND * targets - alpha) / alpha.abs().max(), multiplier).min()

    assert margin(features) > 100 * step
    features.requires_grad_()
    loss(features).backward()
    found = (features.grad * direction).sum()
    with torch.no_grad():
        expected = (loss(features + step * direction) - loss(features - step * direction)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivative_is_refused(draw_features, backend):
    features, labels = draw_features(1, 3, 2)
    kernel = gram(features).requires_grad_()
    alpha = crammer_singer(kernel, labels, 3, backend=backend).alpha
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(alpha.square().sum(), kernel, create_graph=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_and_strides(draw_features, backend):
    features, labels = draw_features(3, 5, 5)
    kernel = gram(features)
    expected = crammer_singer(kernel, labels, 5).alpha
    single = crammer_singer(kernel.float(), labels, 5, backend=backend)
    assert single.alpha.dtype == torch.float32
    assert (single.alpha - expected).abs().max() < 1e-6 * expected.abs().max() * 10
    strided = kernel.repeat_interleave(2, 2)[:, :, ::2]
    repeated = labels.repeat_interleave(2, 1)[:, ::2]
    torch.testing.assert_close(
        crammer_singer(strided, repeated, 5, backend=backend).alpha, expected, rtol=1e-12, atol=1e-14
    )
    with torch.no_grad():
        assert not crammer_singer(kernel.requires_grad_(), labels, 5, backend=backend).alpha.requires_grad


def test_two_threads_at_once(draw_features):
    features, labels = draw_features(8, 5, 5)
    expected, found = crammer_singer(gram(features), labels, 5).alpha, {}

    def work(name):
        found[name] = [crammer_singer(gram(features), labels, 5).alpha for _ in range(20)]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(alpha, expected) for name in found for alpha in found[name])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kernel": torch.zeros(2, 6, 5)}, ValueError, r"kernel has shape \(2, 6, 5\)"),
        ({"kernel": torch.zeros(2, 6, 6, dtype=torch.int64)}, ValueError, "kernel .* allowed: float32 or float64"),
        ({"labels": torch.zeros(2, 5, dtype=torch.int64)}, ValueError, r"labels has shape \(2, 5\)"),
        ({"labels": torch.zeros(2, 6)}, ValueError, "labels .* allowed: integers"),
        ({"labels": torch.tensor([[0, 1, 2, 0, 1, 3]] * 2)}, ValueError, r"labels holds 0 .. 3; allowed: 0 .. 2"),
        ({"labels": torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 0, 0, 1, 0]])}, ValueError, "problem 1 lack class 2"),
        ({"n_way": 1}, ValueError, "n_way is 1; allowed: 2 or more"),
        ({"bound": 0.0}, ValueError, "bound is 0.0; allowed: greater than 0"),
        ({"bound": -1.0}, ValueError, "bound is -1.0; allowed"),
        ({"diagonal_shift": -1.0}, ValueError, "diagonal_shift is -1.0; allowed: 0 or more"),
        ({"max_rounds": 0}, ValueError, "max_rounds is 0; allowed: 1 or more"),
        ({"kernel": torch.eye(6)}, ValueError, r"labels has shape \(2, 6\) .* of shape \(6,\)"),
        (
            {"labels": torch.zeros(2, 0, dtype=torch.int64), "kernel": torch.zeros(2, 0, 0)},
            ValueError,
            "labels is empty",
        ),
        ({"backend": "cuda"}, ValueError, "backend is 'cuda'; allowed: 'auto', 'numba', 'torch'"),
        ({"kernel": torch.full((2, 6, 6), torch.nan)}, FloatingPointError, "kernel has non-finite entries"),
        ({"kernel": torch.full((2, 6, 6), torch.inf)}, FloatingPointError, "kernel has non-finite entries"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_input(change, error, message, backend):
    arguments = {"kernel": torch.eye(6).repeat(2, 1, 1), "labels": torch.tensor([[0, 1, 2, 0, 1, 2]] * 2), "n_way": 3}
    with pytest.raises(error, match=message):
        crammer_singer(**{**arguments, "backend": backend, **change})


SOLVE_AND_HASH = """
import hashlib, torch
from fewshot.solvers import crammer_singer
features = torch.rand(8, 25, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
labels = (torch.arange(25) % 5).expand(8, 25)
alpha = crammer_singer(features @ features.mT, labels, 5).alpha
print(hashlib.sha256(alpha.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_the_process_that_compiles_gives_the_bytes_of_later_processes(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}

    def run():
        command = [sys.executable, "-c", SOLVE_AND_HASH]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    compiling, cached = run(), run()

    assert any(tmp_path.rglob("*.nbc"))
    assert compiling == cached


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"kernel": np.eye(4)}, TypeError, "kernel is a ndarray; allowed: a torch.Tensor"),
        ({"labels": [0, 1, 0, 1]}, TypeError, "labels is a list"),
        ({"n_way": 2.0}, TypeError, "n_way is 2.0; allowed: an integer"),
        ({"n_way": None}, TypeError, "n_way is None"),
        ({"bound": torch.tensor(0.1)}, TypeError, r"bound is tensor\(0.1000\); allowed: a number"),
        ({"diagonal_shift": "1"}, TypeError, "diagonal_shift is '1'"),
        ({"diagonal_shift": float("inf")}, ValueError, "diagonal_shift is inf; allowed: 0 or more, finite"),
        ({"max_rounds": 1.5}, ValueError, "max_rounds is 1.5; allowed: 1 or more, an integer"),
        ({"tolerance": float("nan")}, ValueError, "tolerance is nan"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(change, error, words):
    arguments = {"kernel": torch.eye(4), "labels": torch.tensor([0, 1, 0, 1]), "n_way": 2}
    with pytest.raises(error, match=words):
        crammer_singer(**arguments | change)
