"""Block principal pivoting for the Crammer-Singer dual in batched torch, on any device.

The method stands in `multiclass_svm`. All problems of a batch take each round together. On the CPU solved problems
leave the batch; on an accelerator they stay, being fixed points, so that the first rounds need no word from the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.solvers.certificate import kkt_residual
from fewshot.solvers.saddle import SaddleFactors, free_blocks, on_host

PATIENCE = 5
"""Rounds without fewer infeasible entries after which one entry a round is flipped (Murty's rule, which ends)."""

BLIND_ROUNDS = 8
"""Rounds on an accelerator before the host first asks whether all problems are solved."""


class Pivots(NamedTuple):
    """State of T problems after pivoting; every tensor has T as its first axis.

    Attributes:
        alpha: (T, M, S) float64.
        free: (T, M, S) bool, where an entry is strictly inside its bound.
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


def pivot(
    kernel: Tensor, labels: Tensor, n_way: int, bound: float, shift: float, max_rounds: int, free: Tensor | None = None
) -> Pivots:
    """Pivot T problems; arguments as in `pivoting_numba.pivot`, on any device."""
    matrix = shifted(kernel, shift)
    targets = one_hot(labels, n_way)
    n_problems, n_way, n_samples = targets.shape
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
    residual = kkt_residual(kernel, labels, alpha, bound, shift)
    return Pivots(alpha, free, rounds, solved, residual, blocks, schur)


def shifted(kernel: Tensor, shift: float) -> Tensor:
    """Return the symmetric part of the kernel (T, S, S) plus shift times the identity, float64."""
    matrix = kernel.detach().double()
    matrix = 0.5 * (matrix + matrix.mT)
    matrix.diagonal(dim1=1, dim2=2).add_(shift)
    return matrix


def one_hot(labels: Tensor, n_way: int) -> Tensor:
    """Return the targets Y (T, M, S), float64, of labels (T, S)."""
    targets = torch.zeros(labels.shape[0], n_way, labels.shape[1], dtype=torch.float64, device=labels.device)
    return targets.scatter_(1, labels.unsqueeze(1), 1.0)


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
    """Correct alpha once by the residual of its own linear equations; the equality multiplier cancels out of them."""
    change, _ = factors.solve(targets - alpha @ matrix, -alpha.sum(1))
    return alpha + change


def _last_only(infeasible: Tensor) -> Tensor:
    """Return a mask of the last marked entry of each problem."""
    flat = infeasible.flatten(1)
    from_last = flat.flip(1).cumsum(1).flip(1)
    return (flat & (from_last == 1)).view_as(infeasible)
