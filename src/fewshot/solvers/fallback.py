"""What to try when block principal pivoting cycles: better free sets to start it from, problem by problem.

Cycling was seen only with more samples than features and kernels far larger than the diagonal shift.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewshot.solvers.interior_point import interior_point
from fewshot.solvers.pivoting_torch import one_hot, shifted

INTERIOR_ITERATIONS = (12, 16, 20)
"""After these many iterations the active set is read off; later the slacks underflow."""

CONTINUATION_FACTOR = 1.5
"""By this the extra shift falls from stage to stage; 2 and 4 were seen to fail where 1.5 did not."""


def solve_again(
    pivot: Callable[..., Any],
    pivots: Any,
    kernel: Tensor,
    labels: Tensor,
    n_way: int,
    bound: float,
    shift: float,
    max_rounds: int,
) -> Any:
    """Try each fallback on the problems left unsolved and return the state with what they reached.

    Args:
        pivot: of a back end.
        pivots: its state, which tells what is unsolved.
        kernel: of all T problems, like the arguments that follow.
        labels: (T, S).
        n_way: M.
        bound: C.
        shift: added to the diagonal.
        max_rounds: for each call of `pivot`.
    """
    for attempt in (_from_interior_point, _by_continuation):
        unsolved = torch.nonzero(~torch.as_tensor(pivots.solved)).flatten().tolist()
        for t in unsolved:
            retried = attempt(pivot, kernel[t : t + 1], labels[t : t + 1], n_way, bound, shift, max_rounds)
            _replace(pivots, t, retried)
    return pivots


def _from_interior_point(
    pivot: Callable[..., Any], kernel: Tensor, labels: Tensor, n_way: int, bound: float, shift: float, max_rounds: int
) -> Any:
    """Pivot one problem from the active set of an interior point."""
    matrix, targets = shifted(kernel, shift), one_hot(labels, n_way)
    scale = kernel.diagonal(dim1=1, dim2=2).mean().double().clamp(min=shift)
    for iterations in INTERIOR_ITERATIONS:
        point = interior_point(matrix, targets, bound, iterations)
        free = _fill_empty(point.slack * scale > point.multiplier, point.slack)
        pivots = pivot(kernel, labels, n_way, bound, shift, max_rounds, free)
        if pivots.solved[0]:
            break
    return pivots


def _by_continuation(
    pivot: Callable[..., Any], kernel: Tensor, labels: Tensor, n_way: int, bound: float, shift: float, max_rounds: int
) -> Any:
    """Pivot one problem with an extra shift that falls to zero, each stage from the free set of the stage before."""
    extra = kernel.diagonal(dim1=1, dim2=2).mean().item() * kernel.shape[1] / n_way / 1e3
    last = 0.02 * shift if shift else 1e-12 * extra
    free = torch.ones(1, n_way, kernel.shape[1], dtype=torch.bool, device=kernel.device)
    while extra > last:
        pivots = pivot(kernel, labels, n_way, bound, shift + extra, max_rounds, free)
        free = torch.as_tensor(pivots.free).bool()
        extra /= CONTINUATION_FACTOR
    return pivot(kernel, labels, n_way, bound, shift, max_rounds, free)


def _fill_empty(free: Tensor, slack: Tensor) -> Tensor:
    """Give each sample at least one free entry, the one with the largest slack."""
    largest = torch.zeros_like(free).scatter_(1, slack.argmax(1, keepdim=True), True)
    return torch.where(free.any(1, keepdim=True), free, largest)


def _replace(pivots: Any, problem: int, single: Any) -> None:
    """Overwrite problem `problem` of a state by the only one of another; rounds add up."""
    rounds = pivots.rounds[problem] + single.rounds[0]
    for array, replacement in zip(pivots, single, strict=True):
        array[problem] = replacement[0]
    pivots.rounds[problem] = rounds
