"""Fallbacks when block principal pivoting cycles: better free sets to start from, one problem at a time.

Cycling was observed only with more samples than features and kernels far larger than the diagonal shift.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .interior_point import interior_point
from .problem import Problem

Pivot = Callable[..., Any]
"""The `pivot` of a backend: problem, max_rounds, initial free set or None -> the backend's `Pivots`."""

INTERIOR_ITERATIONS = (12, 16, 20)
"""Iteration counts at which the active set is read; later the slacks underflow."""

CONTINUATION_FACTOR = 1.5
"""Factor by which the extra shift shrinks per stage; 2 and 4 failed on problems that 1.5 solved."""


def solve_again(pivot: Pivot, pivots: Any, problem: Problem, max_rounds: int) -> Any:
    """Try each fallback on the unsolved problems; return the state updated in place.

    Args:
        pivot: the backend's `pivot`.
        pivots: its state after the first attempt.
        problem: all T problems.
        max_rounds: linear solves per call to `pivot`.
    """
    for attempt in (_from_interior_point, _by_continuation):
        unsolved = torch.nonzero(~torch.as_tensor(pivots.solved)).flatten().tolist()
        for t in unsolved:
            _replace(pivots, t, attempt(pivot, problem[t], max_rounds))
    return pivots


def _from_interior_point(pivot: Pivot, problem: Problem, max_rounds: int) -> Any:
    """Pivot one problem from the active set of an interior point."""
    matrix, targets = problem.matrix(), problem.targets()
    scale = problem.kernel.diagonal(dim1=1, dim2=2).mean().double().clamp(min=problem.diagonal_shift)
    for iterations in INTERIOR_ITERATIONS:
        point = interior_point(matrix, targets, problem.bound, iterations)
        free = _fill_empty(point.slack * scale > point.multiplier, point.slack)
        pivots = pivot(problem, max_rounds, free)
        if pivots.solved[0]:
            break
    return pivots


def _by_continuation(pivot: Pivot, problem: Problem, max_rounds: int) -> Any:
    """Pivot one problem with an extra shift that shrinks to zero; each stage starts from the previous free set."""
    kernel, shift = problem.kernel, problem.diagonal_shift
    extra = kernel.diagonal(dim1=1, dim2=2).mean().item() * kernel.shape[1] / problem.n_way / 1e3
    last = 0.02 * shift if shift else 1e-12 * extra
    free = torch.ones(problem.shape, dtype=torch.bool, device=kernel.device)
    while extra > last:
        pivots = pivot(replace(problem, diagonal_shift=shift + extra), max_rounds, free)
        free = torch.as_tensor(pivots.free).bool()
        extra /= CONTINUATION_FACTOR
    return pivot(problem, max_rounds, free)


def _fill_empty(free: Tensor, slack: Tensor) -> Tensor:
    """Give each sample at least one free entry, the one with the largest slack."""
    largest = torch.zeros_like(free).scatter_(1, slack.argmax(1, keepdim=True), True)
    return torch.where(free.any(1, keepdim=True), free, largest)


def _replace(pivots: Any, problem: int, single: Any) -> None:
    """Overwrite problem `problem` of a state with a state of one problem, adding up the rounds."""
    rounds = pivots.rounds[problem] + single.rounds[0]
    for array, replacement in zip(pivots, single, strict=True):
        array[problem] = replacement[0]
    pivots.rounds[problem] = rounds
