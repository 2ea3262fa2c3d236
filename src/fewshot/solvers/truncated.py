"""The Crammer-Singer dual as the published results solved it: an interior point stopped after a few iterations.

Both ways are slow and plain. They serve to reproduce and compare; `crammer_singer` is the solver to use.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fewshot.solvers.certificate import kkt_residual
from fewshot.solvers.interior_point import interior_point
from fewshot.solvers.multiclass_svm import Solution
from fewshot.solvers.pivoting_torch import one_hot, shifted

CONVERGED = 1e-9
"""Largest relative KKT residual of a problem that counts as converged, as for the exact solver."""


def truncated(
    kernel: Tensor,
    labels: Tensor,
    n_way: int,
    bound: float,
    diagonal_shift: float,
    max_iterations: int,
    precision: torch.dtype,
) -> tuple[Solution, Callable[[Tensor], Tensor]]:
    """Return qpth's point after `max_iterations`, made without qpth, and the adjoint qpth would use there.

    Arguments as in `crammer_singer`; `precision` is the arithmetic.
    """
    matrix = shifted(kernel, diagonal_shift).to(precision)
    point = interior_point(matrix, one_hot(labels, n_way).to(precision), bound, max_iterations)
    solution = _describe(point.alpha, kernel, labels, bound, diagonal_shift, max_iterations)
    return solution, point.factors(matrix).adjoint


def by_qpth(
    kernel: Tensor,
    labels: Tensor,
    n_way: int,
    bound: float,
    diagonal_shift: float,
    max_iterations: int,
    precision: torch.dtype,
) -> Solution:
    """Solve the dense problem with qpth; alpha is differentiable in the kernel through qpth's own backward pass.

    Arguments as in `crammer_singer`; `precision` is the arithmetic. Memory grows as (S M)^2.
    """
    from qpth.qp import QPFunction  # here, because its import loads cvxpy (a second)

    n_problems, n_samples, _ = kernel.shape
    size = n_samples * n_way
    identity = torch.eye(size, dtype=precision, device=kernel.device)
    classes = torch.eye(n_way, dtype=precision, device=kernel.device)
    samples = torch.eye(n_samples, dtype=precision, device=kernel.device)
    quadratic = torch.einsum("tij,kl->tikjl", kernel.to(precision), classes).reshape(n_problems, size, size)
    targets = one_hot(labels, n_way).to(precision).mT.reshape(n_problems, size)
    sums = torch.kron(samples, classes.new_ones(1, n_way))
    alpha = QPFunction(verbose=-1, maxIter=max_iterations)(
        quadratic + diagonal_shift * identity,
        -targets,
        identity.expand(n_problems, size, size),
        bound * targets,
        sums.expand(n_problems, n_samples, size),
        targets.new_zeros(n_problems, n_samples),
    )
    by_class = alpha.view(n_problems, n_samples, n_way).mT
    return _describe(by_class, kernel, labels, bound, diagonal_shift, max_iterations)


def _describe(
    alpha: Tensor, kernel: Tensor, labels: Tensor, bound: float, diagonal_shift: float, iterations: int
) -> Solution:
    residual = kkt_residual(kernel, labels, alpha, bound, diagonal_shift)
    counts = torch.full(labels.shape[:1], iterations, dtype=torch.int64, device=labels.device)
    return Solution(alpha.to(kernel.dtype).mT, residual, counts, residual <= CONVERGED)
