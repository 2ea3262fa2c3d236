"""Quadratic programs with box constraints, solved to rounding by block principal pivoting, with their adjoint.

For T problems of N variables with symmetric, positive definite H (N, N):

    minimise over x   1/2 x^T H x - q^T x      subject to 0 <= x <= u

Every entry is at its lower bound, free, or at its upper bound. All infeasible entries move at once; when their number
stops falling, one a round does (Murty's rule). Source: Judice and Pires, Comput. Oper. Res. 1994.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LOWER, FREE, UPPER = -1, 0, 1
PATIENCE = 5
MAX_ROUNDS = 200


@dataclass(frozen=True)
class BoxSolution:
    """Optima of T problems, float64.

    Attributes:
        x: (T, N).
        kkt_residual: (T,) largest |x - clip(x - (H x - q) / s)| / max |x|, with s the largest diagonal entry of H and
            1 for max |x| where x is zero; inf where x is not finite.
        iterations: (T,) rounds of the whole batch.
        converged: (T,) no entry infeasible and residual at most 1e-9.
        factors: of the matrix on the free entries, for `adjoint`.
        free: (T, N) bool.
    """

    x: Tensor
    kkt_residual: Tensor
    iterations: Tensor
    converged: Tensor
    factors: tuple[Tensor, Tensor]
    free: Tensor

    def adjoint(self, gradient: Tensor) -> Tensor:
        """Return v (T, N) with d loss / d H = -(v x^T + x v^T) / 2, for the gradient (T, N) of x."""
        return _solve(self.factors, torch.where(self.free, gradient.double(), 0.0))


def box_program(matrix: Tensor, linear: Tensor, upper: Tensor) -> BoxSolution:
    """Solve T box-constrained programs from "everything at its upper bound".

    Args:
        matrix: H, (T, N, N), float64.
        linear: q, (T, N), float64.
        upper: u >= 0, (T, N), float64; 0 fixes an entry.
    """
    state = torch.where(upper > 0, UPPER, LOWER)
    count = upper.shape[1] + 1
    fewest, patience = torch.full_like(state[:, 0], count), torch.full_like(state[:, 0], PATIENCE)
    rounds = 0
    while rounds < MAX_ROUNDS:
        rounds += 1
        free = state == FREE
        x, factors = _solve_free(matrix, linear, torch.where(state == UPPER, upper, 0.0), free)
        wanted = _feasible_state(x, matrix, linear, upper, state)
        infeasible = wanted != state
        counts = infeasible.sum(1)
        if not bool(counts.any()):
            break
        patience = torch.where(counts < fewest, PATIENCE, patience - 1)
        fewest = torch.minimum(fewest, counts)
        last = infeasible & (infeasible.flip(1).cumsum(1).flip(1) == 1)
        state = torch.where(torch.where(patience[:, None] >= 0, infeasible, last), wanted, state)
    residual = _residual(x, matrix, linear, upper)
    return BoxSolution(
        x, residual, torch.full_like(counts, rounds), (counts == 0) & (residual <= 1e-9), factors, free
    )  # fmt: skip


def _solve_free(matrix: Tensor, linear: Tensor, fixed: Tensor, free: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return x with the given entries fixed, and the factors of the matrix on the free ones (identity elsewhere)."""
    mask = free.to(matrix.dtype)
    masked = matrix * mask.unsqueeze(2) * mask.unsqueeze(1)
    masked.diagonal(dim1=1, dim2=2).add_(1 - mask)
    factors, pivots, _ = torch.linalg.lu_factor_ex(masked)
    right = (linear - (matrix @ fixed.unsqueeze(2)).squeeze(2)) * mask
    return _solve((factors, pivots), right) + fixed, (factors, pivots)


def _solve(factors: tuple[Tensor, Tensor], right: Tensor) -> Tensor:
    return torch.linalg.lu_solve(*factors, right.unsqueeze(2)).squeeze(2)


def _feasible_state(x: Tensor, matrix: Tensor, linear: Tensor, upper: Tensor, state: Tensor) -> Tensor:
    """Return where each entry should be: a free one that left the box at that bound, a bound one pulled in free."""
    gradient = (matrix @ x.unsqueeze(2)).squeeze(2) - linear
    tolerance = 1e-12 * linear.abs().amax(1, keepdim=True).clamp(min=1.0)
    margin = 1e-12 * x.abs().amax(1, keepdim=True)
    leaves = torch.where(x < -margin, LOWER, torch.where(x > upper + margin, UPPER, FREE))
    pulled = ((state == LOWER) & (gradient < -tolerance)) | ((state == UPPER) & (gradient > tolerance))
    bounded = torch.where(pulled & (upper > 0), FREE, state)
    return torch.where(state == FREE, leaves, bounded)


def _residual(x: Tensor, matrix: Tensor, linear: Tensor, upper: Tensor) -> Tensor:
    step = ((matrix @ x.unsqueeze(2)).squeeze(2) - linear) / matrix.diagonal(dim1=1, dim2=2).amax(
        1, keepdim=True
    ).clamp(min=1e-300)
    moved = torch.minimum((x - step).clamp(min=0.0), upper)
    size = x.abs().amax(1)
    worst = (moved - x).abs().amax(1) / torch.where(size > 0, size, 1.0)
    return torch.where(torch.isfinite(worst), worst, torch.inf)
