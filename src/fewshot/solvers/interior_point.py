"""A fixed number of interior-point steps for the Crammer-Singer dual, with the iterates of qpth.

It has two uses: the published results come from qpth stopped after 15 (training) and 3 (test) iterations, and the
returned point gives an active set from which pivoting can start when it cycles. The steps, the starting point and the
choice of the returned point follow Amos and Kolter, "OptNet", ICML 2017, as implemented in qpth 0.0.18 (Mehrotra's
predictor-corrector; the point with the smallest residual is returned, and the point computed in the last iteration is
never considered). There are two differences. The problem is solved in its structured form, as M systems of size S
instead of one of size S M. And the problems of a batch are independent: qpth stops once no problem of the batch has
improved three times, and its step length may depend on other problems.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .saddle import SaddleFactors, inverse_blocks

MULTIPLIER_FLOOR = 1e-8
"""Lower limit of slacks and multipliers in the system of the backward pass (as in qpth)."""


class InteriorPoint(NamedTuple):
    """A point for T problems: alpha, slack and multiplier of the upper bound, (T, M, S); equality multiplier (T, S)."""

    alpha: Tensor
    slack: Tensor
    multiplier: Tensor
    nu: Tensor

    def factors(self, matrix: Tensor) -> SaddleFactors:
        """Return the factors whose `adjoint` differentiates alpha as qpth does at this point."""
        weight = self.multiplier.clamp(min=MULTIPLIER_FLOOR) / self.slack.clamp(min=MULTIPLIER_FLOOR)
        return inverse_blocks(matrix, weight)

    def step(self, by: "InteriorPoint", length: Tensor) -> "InteriorPoint":
        """Return the point at `length` (T, 1, 1) along the direction `by`."""
        lengths = (length, length, length, length[:, 0])
        return InteriorPoint(*(value + size * change for value, size, change in zip(self, lengths, by, strict=True)))


def interior_point(matrix: Tensor, targets: Tensor, bound: float, max_iterations: int) -> InteriorPoint:
    """Return the best of the first `max_iterations` iterates of T problems, computed in the dtype of the arguments.

    Args:
        matrix: kernel plus shift times identity, (T, S, S), positive definite.
        targets: one-hot Y, (T, M, S).
        bound: C.
        max_iterations: iterations as counted by qpth; 1 gives the starting point.
    """
    point = _start(matrix, targets, bound)
    best, best_score = point, torch.full_like(point.alpha[:, 0, 0], torch.inf)
    for _ in range(max_iterations):
        residuals = _residuals(point, matrix, targets, bound)
        score = _score(point, residuals)
        better = score < best_score
        best_score = torch.where(better, score, best_score)
        best = InteriorPoint(
            *(
                torch.where(better.view(-1, *[1] * (new.dim() - 1)), new, old)
                for new, old in zip(point, best, strict=True)
            )
        )
        point = _advance(point, matrix, residuals)
    return best


def _start(matrix: Tensor, targets: Tensor, bound: float) -> InteriorPoint:
    """Solve the system with unit weights, then raise slacks and multipliers to at least 1 if any is negative."""
    alpha, nu = inverse_blocks(matrix, torch.ones_like(targets)).solve((1 + bound) * targets)
    slack = bound * targets - alpha
    return InteriorPoint(alpha, _lift(slack), _lift(-slack), nu)


def _lift(values: Tensor) -> Tensor:
    smallest = values.amin((1, 2), keepdim=True)
    return torch.where(smallest < 0, values + (1 - smallest), values)


def _residuals(point: InteriorPoint, matrix: Tensor, targets: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the residuals of stationarity (T, M, S), of the bounds (T, M, S) and of the sums over classes (T, S)."""
    stationarity = point.alpha @ matrix - targets + point.multiplier + point.nu.unsqueeze(1)
    return stationarity, point.alpha + point.slack - bound * targets, point.alpha.sum(1)


def _score(point: InteriorPoint, residuals: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the norm of the residuals plus the duality gap, (T,)."""
    stationarity, bounds, sums = residuals
    gap = (point.slack * point.multiplier).sum((1, 2)).abs()
    return stationarity.flatten(1).norm(dim=1) + bounds.flatten(1).norm(dim=1) + sums.norm(dim=1) + gap


def _advance(point: InteriorPoint, matrix: Tensor, residuals: tuple[Tensor, Tensor, Tensor]) -> InteriorPoint:
    """Take one predictor-corrector step."""
    stationarity, bounds, sums = residuals
    slack, multiplier = point.slack, point.multiplier
    weight = multiplier / slack
    factors = inverse_blocks(matrix, weight)

    def direction(stationarity: Tensor, complementarity: Tensor, bounds: Tensor, sums: Tensor | None) -> InteriorPoint:
        right = complementarity - stationarity - weight * bounds
        alpha, nu = factors.solve(right, None if sums is None else -sums)
        slack_change = -bounds - alpha
        return InteriorPoint(alpha, slack_change, -complementarity - weight * slack_change, nu)

    affine = direction(stationarity, multiplier, bounds, sums)
    length = _longest_step(point, affine).clamp(max=1.0)
    gap = (slack * multiplier).sum((1, 2), keepdim=True)
    affine_gap = ((slack + length * affine.slack) * (multiplier + length * affine.multiplier)).sum((1, 2), keepdim=True)
    centring = (affine_gap / gap) ** 3
    mean_gap = gap.abs() / slack[0].numel()
    zero = torch.zeros_like(stationarity)
    corrector = direction(zero, (affine.slack * affine.multiplier - mean_gap * centring) / slack, zero, None)
    step = InteriorPoint(*(first + second for first, second in zip(affine, corrector, strict=True)))
    return point.step(step, (0.999 * _longest_step(point, step)).clamp(max=1.0))


def _longest_step(point: InteriorPoint, direction: InteriorPoint) -> Tensor:
    """Return the longest step that keeps slacks and multipliers positive, (T, 1, 1)."""
    lengths = [
        torch.where(change < 0, -value / change, torch.inf).amin((1, 2), keepdim=True)
        for value, change in ((point.slack, direction.slack), (point.multiplier, direction.multiplier))
    ]
    return torch.minimum(*lengths)
