"""The Crammer-Singer dual solved as for the published results: an interior-point method stopped after few iterations.

Both functions are slow and exist for reproduction and comparison only; otherwise use `crammer_singer`.
"""

import torch
from torch import Tensor

from .certificate import relative_residual
from .interior_point import interior_point
from .problem import Problem
from .solution import Adjoint, Solution, by_class

CONVERGED = 1e-9
"""Largest relative KKT residual of a converged problem, as in the exact solver."""


def truncated(problem: Problem, max_iterations: int, precision: torch.dtype) -> Solution:
    """Return qpth's point after `max_iterations`, computed without qpth; `adjoint` matches qpth's at that point.

    Args:
        problem: T problems.
        max_iterations: iterations as counted by qpth; 1 gives the starting point.
        precision: dtype of the arithmetic.
    """
    matrix = problem.matrix().to(precision)
    point = interior_point(matrix, problem.targets().to(precision), problem.bound, max_iterations)
    return _solution(problem, point.alpha, max_iterations, by_class(point.factors(matrix).adjoint))


def by_qpth(problem: Problem, max_iterations: int, precision: torch.dtype) -> Solution:
    """Solve the dense problem with qpth; alpha is differentiable in the kernel through qpth's own backward pass.

    Memory grows as (S M)^2. `adjoint` raises `NotImplementedError`.

    Args:
        problem: T problems.
        max_iterations: maximum number of qpth iterations.
        precision: dtype of the arithmetic.
    """
    from qpth.qp import QPFunction  # imported here because it loads cvxpy, which takes a second

    n_problems, n_way, n_samples = problem.shape
    kernel, size = problem.kernel, n_samples * n_way
    identity = torch.eye(size, dtype=precision, device=kernel.device)
    classes = torch.eye(n_way, dtype=precision, device=kernel.device)
    samples = torch.eye(n_samples, dtype=precision, device=kernel.device)
    quadratic = torch.einsum("tij,kl->tikjl", kernel.to(precision), classes).reshape(n_problems, size, size)
    targets = problem.targets().to(precision).mT.reshape(n_problems, size)
    sums = torch.kron(samples, classes.new_ones(1, n_way))
    alpha = QPFunction(verbose=-1, maxIter=max_iterations)(
        quadratic + problem.diagonal_shift * identity,
        -targets,
        identity.expand(n_problems, size, size),
        problem.bound * targets,
        sums.expand(n_problems, n_samples, size),
        targets.new_zeros(n_problems, n_samples),
    )
    return _solution(problem, alpha.view(n_problems, n_samples, n_way).mT, max_iterations, _no_adjoint)


def _no_adjoint(gradient: Tensor) -> Tensor:
    raise NotImplementedError("qpth differentiates alpha itself: use autograd on the kernel")


def _solution(problem: Problem, alpha: Tensor, iterations: int, adjoint: Adjoint) -> Solution:
    """Return the solution with alpha (T, M, S)."""
    residual = relative_residual(problem, alpha)
    counts = torch.full_like(problem.labels[:, 0], iterations)
    return Solution(alpha.to(problem.kernel.dtype).mT, residual, counts, residual <= CONVERGED, adjoint)
