"""Block principal pivoting for the Crammer-Singer dual in batched torch, on any device.

`multiclass_svm` describes the method. All problems of a batch advance together. On the CPU, solved problems leave the
batch; on an accelerator they stay, being fixed points, and the first rounds need no device-to-host synchronisation.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .certificate import relative_residual
from .problem import Problem
from .saddle import SaddleFactors, free_blocks, on_host

PATIENCE = 5
"""Rounds without progress before switching to one flipped entry per round (Murty's rule, which terminates)."""

BLIND_ROUNDS = 8
"""Rounds on an accelerator before the host first checks whether all problems are solved."""


class Pivots(NamedTuple):
    """State of T problems after pivoting; every tensor has T as its first axis.

    Attributes:
        alpha: (T, M, S) float64.
        free: (T, M, S) bool, where an entry is strictly below its bound.
        rounds: (T,) int64, linear solves done.
        solved: (T,) bool, no entry infeasible.
        residual: (T,) relative KKT residual.
        blocks: (T, M, S, S) inverses on the free samples, zero elsewhere.
        schur: (T, S, S) lower Cholesky factor of the sum of the inverses.
    """

    alpha: Tensor
    free: Tensor
    rounds: Tensor
    solved: Tensor
    residual: Tensor
    blocks: Tensor
    schur: Tensor

    def adjoint(self, gradient: Tensor) -> Tensor:
        """Return V (T, M, S) for the gradient (T, M, S) of alpha; see `saddle.SaddleFactors.adjoint`."""
        return SaddleFactors(self.blocks, self.schur).adjoint(gradient)


def pivot(problem: Problem, max_rounds: int, free: Tensor | None = None) -> Pivots:
    """Pivot T problems on any device; arguments as in `pivoting_numba.pivot`."""
    kernel, bound = problem.kernel, problem.bound
    matrix, targets = problem.matrix(), problem.targets()
    n_problems, n_way, n_samples = problem.shape
    seen = on_host(kernel)
    free = torch.ones_like(targets, dtype=torch.bool) if free is None else free.clone()
    alpha, blocks = torch.empty_like(targets), matrix.new_empty(n_problems, n_way, n_samples, n_samples)
    schur = torch.empty_like(matrix)
    rounds = torch.zeros(n_problems, dtype=torch.int64, device=kernel.device)
    solved = torch.zeros(n_problems, dtype=torch.bool, device=kernel.device)
    fewest = torch.full_like(rounds, n_way * n_samples + 1)
    patience = torch.full_like(rounds, PATIENCE)
    active: Tensor | slice = slice(None)
    for done in range(1, max_rounds + 1):
        factors = free_blocks(matrix[active], free[active])
        solution, infeasible = _solve_free(factors, matrix[active], targets[active], bound, free[active])
        alpha[active], blocks[active], schur[active] = solution, factors.blocks, factors.schur
        count = infeasible.sum((1, 2))
        rounds[active] += ~solved[active]
        solved[active] = (count == 0) & torch.isfinite(solution).all(2).all(1)
        patience[active] = torch.where(count < fewest[active], PATIENCE, patience[active] - 1)
        fewest[active] = torch.minimum(fewest[active], count)
        if not seen or bool((patience < 0).any()):
            infeasible = torch.where(patience[active][:, None, None] >= 0, infeasible, _last_only(infeasible))
        free[active] ^= infeasible
        if seen or done >= BLIND_ROUNDS:
            if bool(solved.all()):
                break
            if seen and bool(solved.any()):
                active = torch.nonzero(~solved).flatten()
    alpha = _refine(SaddleFactors(blocks, schur), alpha, matrix, targets)
    residual = relative_residual(problem, alpha)
    return Pivots(alpha, free, rounds, solved, residual, blocks, schur)


def pivot_blindly(problem: Problem) -> Pivots:
    """Pivot T problems for `BLIND_ROUNDS` rounds, reading nothing on the host and without guarding against cycles."""
    bound, matrix, targets = problem.bound, problem.matrix(), problem.targets()
    free = torch.ones_like(targets, dtype=torch.bool)
    for _ in range(BLIND_ROUNDS):
        factors = free_blocks(matrix, free)
        alpha, infeasible = _solve_free(factors, matrix, targets, bound, free)
        free = free ^ infeasible
    solved = (~infeasible & torch.isfinite(alpha)).flatten(1).all(1)
    alpha = _refine(factors, alpha, matrix, targets)
    rounds = torch.full_like(problem.labels[:, 0], BLIND_ROUNDS)
    return Pivots(alpha, free, rounds, solved, relative_residual(problem, alpha), factors.blocks, factors.schur)


def _solve_free(
    factors: SaddleFactors, matrix: Tensor, targets: Tensor, bound: float, free: Tensor
) -> tuple[Tensor, Tensor]:
    """Return alpha for this free set and which entries, free or not, are infeasible."""
    fixed = torch.where(free, 0.0, bound * targets)
    inner, nu = factors.solve(targets - fixed @ matrix, -fixed.sum(1))
    alpha = inner + fixed
    product = alpha @ matrix
    largest = alpha.abs().amax((1, 2), keepdim=True)
    scale = product.abs().amax((1, 2), keepdim=True).clamp(min=1.0)
    above = alpha - bound * targets > 1e-12 * largest
    negative = targets - product - nu.unsqueeze(1) < -1e-12 * scale
    return alpha, torch.where(free, above, negative)


def _refine(factors: SaddleFactors, alpha: Tensor, matrix: Tensor, targets: Tensor) -> Tensor:
    """Refine alpha once with the residual of its linear equations, from which the equality multiplier cancels."""
    change, _ = factors.solve(targets - alpha @ matrix, -alpha.sum(1))
    return alpha + change


def _last_only(infeasible: Tensor) -> Tensor:
    """Return a mask with only the last infeasible entry of each problem."""
    flat = infeasible.flatten(1)
    from_last = flat.flip(1).cumsum(1).flip(1)
    return (flat & (from_last == 1)).view_as(infeasible)
