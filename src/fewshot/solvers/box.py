"""Quadratic programs with box constraints, solved to rounding error by block principal pivoting, with their adjoint.

For T problems of N variables with symmetric, positive definite H (N, N):

    minimise over x   1/2 x^T H x - q^T x      subject to 0 <= x <= u

Every entry is at its lower bound, free, or at its upper bound. All infeasible entries move at once; when their number
stops falling, only one moves per round (Murty's rule). Source: Judice and Pires, Comput. Oper. Res. 1994.
"""

import torch
from torch import Tensor

from .problem import check_tensors, is_float, is_square
from .solution import Solution

LOWER, FREE, UPPER = -1, 0, 1
PATIENCE = 5
MAX_ROUNDS = 200


def box_program(matrix: Tensor, linear: Tensor, upper: Tensor) -> Solution:
    """Solve T box-constrained programs, or a single one, starting with every entry at its upper bound.

    The residual is the largest |x - clip(x - (H x - q) / s)| / max |x|, where s is the largest diagonal entry of H and
    max |x| is replaced by 1 if x is zero; it is inf if x is not finite. A program has converged if no entry is
    infeasible and the residual is at most 1e-9.

    Args:
        matrix: H, (T, N, N), float32 or float64; computed in float64. (N, N) for a single program.
        linear: q, (T, N) or (N,).
        upper: u >= 0, (T, N) or (N,); 0 fixes an entry.

    Returns:
        The solution with alpha = x, (T, N), in the dtype of the matrix and detached from the graph: use `adjoint` for
        derivatives. `iterations` counts the rounds of the whole batch.

    Raises:
        TypeError: if an argument is no tensor.
        ValueError: if an argument has a wrong shape, dtype or value.

    >>> solution = box_program(torch.eye(3), torch.tensor([-1.0, 0.5, 2.0]), torch.ones(3))
    >>> solution.alpha
    tensor([0.0000, 0.5000, 1.0000])
    >>> solution.adjoint(torch.ones(3))
    tensor([0., 1., 0.])
    """
    _check(matrix, linear, upper)
    single = matrix.dim() == 2
    solution = _solve_boxes(*(value.unsqueeze(0) if single else value for value in (matrix, linear, upper)))
    return solution.single() if single else solution


def _check(matrix: Tensor, linear: Tensor, upper: Tensor) -> None:
    """Raise `TypeError` or `ValueError` that names the first argument that does not fit."""
    check_tensors(matrix=matrix, linear=linear, upper=upper)
    if not is_square(matrix) or matrix.numel() == 0:
        raise ValueError(
            f"matrix has shape {tuple(matrix.shape)} and dtype {matrix.dtype}; allowed: float32 or float64 of shape "
            "(programs, variables, variables) or (variables, variables)"
        )
    for name, value in (("linear", linear), ("upper", upper)):
        if value.shape != matrix.shape[:-1] or not is_float(value):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} and dtype {value.dtype}; allowed: float32 or float64 of shape "
                f"{tuple(matrix.shape[:-1])}"
            )
    if not bool((upper >= 0).all()):
        raise ValueError(f"upper holds {upper.min().item()}; allowed: 0 or more")


def _solve_boxes(given: Tensor, linear: Tensor, upper: Tensor) -> Solution:
    """Solve T programs without validating them."""
    matrix, linear, upper = (value.detach().double() for value in (given, linear, upper))
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

    def adjoint(gradient: Tensor) -> Tensor:
        return _solve(factors, torch.where(free, gradient.double(), 0.0)).to(gradient.dtype)

    converged = (counts == 0) & (residual <= 1e-9)
    return Solution(x.to(given.dtype), residual, torch.full_like(counts, rounds), converged, adjoint)


def _solve_free(matrix: Tensor, linear: Tensor, fixed: Tensor, free: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return x with all but the free entries fixed, and the factors of the matrix on these (identity elsewhere)."""
    mask = free.to(matrix.dtype)
    masked = matrix * mask.unsqueeze(2) * mask.unsqueeze(1)
    masked.diagonal(dim1=1, dim2=2).add_(1 - mask)
    factors, pivots, _ = torch.linalg.lu_factor_ex(masked)
    right = (linear - (matrix @ fixed.unsqueeze(2)).squeeze(2)) * mask
    return _solve((factors, pivots), right) + fixed, (factors, pivots)


def _solve(factors: tuple[Tensor, Tensor], right: Tensor) -> Tensor:
    return torch.linalg.lu_solve(*factors, right.unsqueeze(2)).squeeze(2)


def _feasible_state(x: Tensor, matrix: Tensor, linear: Tensor, upper: Tensor, state: Tensor) -> Tensor:
    """Return the new state: free entries outside the box go to that bound, bound entries pulled inwards become free."""
    gradient = (matrix @ x.unsqueeze(2)).squeeze(2) - linear
    tolerance = 1e-12 * linear.abs().amax(1, keepdim=True).clamp(min=1.0)
    margin = 1e-12 * x.abs().amax(1, keepdim=True)
    leaves = torch.where(x < -margin, LOWER, torch.where(x > upper + margin, UPPER, FREE))
    pulled = ((state == LOWER) & (gradient < -tolerance)) | ((state == UPPER) & (gradient > tolerance))
    bounded = torch.where(pulled & (upper > 0), FREE, state)
    return torch.where(state == FREE, leaves, bounded)


def _residual(x: Tensor, matrix: Tensor, linear: Tensor, upper: Tensor) -> Tensor:
    largest = matrix.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).clamp(min=1e-300)
    step = ((matrix @ x.unsqueeze(2)).squeeze(2) - linear) / largest
    moved = torch.minimum((x - step).clamp(min=0.0), upper)
    size = x.abs().amax(1)
    worst = (moved - x).abs().amax(1) / torch.where(size > 0, size, 1.0)
    return torch.where(torch.isfinite(worst), worst, torch.inf)
