"""Quadratic programs with box constraints, solved to rounding error by block principal pivoting, with their adjoint.

For T problems of N variables with symmetric, positive definite H (N, N):

    minimise over x   1/2 x^T H x - q^T x      subject to 0 <= x <= u

Every entry is at its lower bound, free, or at its upper bound. All infeasible entries move at once; when their number
stops falling, only one moves per round (Murty's rule). Source: Judice and Pires, Comput. Oper. Res. 1994.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

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
    given = (value.unsqueeze(0) if single else value for value in (matrix, linear, upper))
    quadratic, linear, upper = (value.detach().double() for value in given)
    solution = solve_boxes(Dense(quadratic), linear, upper)
    solution = replace(solution, alpha=solution.alpha.to(matrix.dtype))
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


class Quadratic(Protocol):
    """The matrices H of T programs, as far as pivoting needs them; float64, symmetric, positive definite."""

    largest: Tensor
    """Largest diagonal entry of each H, (T, 1)."""

    def product(self, x: Tensor) -> Tensor:
        """Return H x of x (T, N)."""

    def factor(self, free: Tensor) -> "Solve":
        """Return a function that solves the equations of the free entries, (T, N) bool."""


Solve = Callable[[Tensor], Tensor]
"""Right-hand sides (T, N), zero where not free -> x (T, N), zero where not free."""


class Dense:
    """A `Quadratic` given as matrices (T, N, N)."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.largest = matrix.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)

    def product(self, x: Tensor) -> Tensor:
        """Return H x of x (T, N)."""
        return (self.matrix @ x.unsqueeze(2)).squeeze(2)

    def factor(self, free: Tensor) -> Solve:
        """Return a function that solves with the factors of the matrix on the free entries (identity elsewhere)."""
        mask = free.to(self.matrix.dtype)
        masked = self.matrix * mask.unsqueeze(2) * mask.unsqueeze(1)
        masked.diagonal(dim1=1, dim2=2).add_(1 - mask)
        factors, pivots, _ = torch.linalg.lu_factor_ex(masked)
        return lambda right: torch.linalg.lu_solve(factors, pivots, right.unsqueeze(2)).squeeze(2)


def solve_boxes(quadratic: Quadratic, linear: Tensor, upper: Tensor) -> Solution:
    """Solve T programs given in any form, without validating them; see `box_program`.

    Args:
        quadratic: H.
        linear: q, (T, N) float64.
        upper: u, (T, N) float64.
    """
    state = torch.where(upper > 0, UPPER, LOWER)
    count = upper.shape[1] + 1
    fewest, patience = torch.full_like(state[:, 0], count), torch.full_like(state[:, 0], PATIENCE)
    rounds = 0
    while rounds < MAX_ROUNDS:
        rounds += 1
        free = state == FREE
        fixed = torch.where(state == UPPER, upper, 0.0)
        solve = quadratic.factor(free)
        x = solve((linear - quadratic.product(fixed)) * free) + fixed
        gradient = quadratic.product(x) - linear
        wanted = _feasible_state(x, gradient, linear, upper, state)
        infeasible = wanted != state
        counts = infeasible.sum(1)
        if not bool(counts.any()):
            break
        patience = torch.where(counts < fewest, PATIENCE, patience - 1)
        fewest = torch.minimum(fewest, counts)
        last = infeasible & (infeasible.flip(1).cumsum(1).flip(1) == 1)
        state = torch.where(torch.where(patience[:, None] >= 0, infeasible, last), wanted, state)
    residual = _residual(x, gradient / quadratic.largest.clamp(min=1e-300), upper)

    def adjoint(gradient: Tensor) -> Tensor:
        return solve(torch.where(free, gradient.double(), 0.0)).to(gradient.dtype)

    converged = (counts == 0) & (residual <= 1e-9)
    return Solution(x, residual, torch.full_like(counts, rounds), converged, adjoint)


def _feasible_state(x: Tensor, gradient: Tensor, linear: Tensor, upper: Tensor, state: Tensor) -> Tensor:
    """Return the new state: free entries outside the box go to that bound, bound entries pulled inwards become free."""
    tolerance = 1e-12 * linear.abs().amax(1, keepdim=True).clamp(min=1.0)
    margin = 1e-12 * x.abs().amax(1, keepdim=True)
    leaves = torch.where(x < -margin, LOWER, torch.where(x > upper + margin, UPPER, FREE))
    pulled = ((state == LOWER) & (gradient < -tolerance)) | ((state == UPPER) & (gradient > tolerance))
    bounded = torch.where(pulled & (upper > 0), FREE, state)
    return torch.where(state == FREE, leaves, bounded)


def _residual(x: Tensor, step: Tensor, upper: Tensor) -> Tensor:
    moved = torch.minimum((x - step).clamp(min=0.0), upper)
    size = x.abs().amax(1)
    worst = (moved - x).abs().amax(1) / torch.where(size > 0, size, 1.0)
    return torch.where(torch.isfinite(worst), worst, torch.inf)
