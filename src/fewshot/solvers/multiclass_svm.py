"""The dual of the Crammer-Singer multi-class support vector machine, solved to rounding and differentiable.

For T problems with S samples, M classes, one-hot labels Y (M, S) and a positive semi-definite kernel K (S, S):

    minimise over alpha (M, S)   1/2 tr(alpha (K + shift I) alpha^T) - <Y, alpha>
    subject to                   alpha <= bound Y,   sum over classes of alpha = 0

Source: Crammer and Singer, JMLR 2001; in the form of Lee et al., CVPR 2019, Eq. 10.

Method. If the entries strictly inside their bound (the free set) were known, alpha would follow from linear equations;
these have one (S, S) block a class and one Schur complement (`saddle`). Block principal pivoting starts with
everything free, which is the ridge solution, solves, moves all infeasible entries across at once and repeats; when
nothing is infeasible, alpha is the optimum to rounding. That takes 1 to 10 solves, and the factors of the last one are
those of the backward pass. Source: Judice and Pires, Comput. Oper. Res. 1994; equivalent to a semismooth Newton method.

Where pivoting cycles (more samples than features and large scale) an interior point names a free set to start from,
then a continuation in the shift; a problem that stays unsolved is reported, never returned as if it were solved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fewshot.errors import NumericalError
from fewshot.solvers import pivoting_numba, pivoting_torch
from fewshot.solvers.fallback import solve_again

Backend = Literal["auto", "numba", "torch"]
Adjoint = Callable[[Tensor], Tensor]

MAX_ROUNDS = 50
"""Linear solves before a problem goes to the fallbacks; 3 to 12 are usual, plain cycling never ends."""


@dataclass(frozen=True)
class Solution:
    """Optima of T problems.

    Attributes:
        alpha: (T, S, M), dtype of the kernel; differentiable in the kernel when it comes from `crammer_singer`.
        kkt_residual: (T,) float64, relative; defined in `certificate.kkt_residual`.
        iterations: (T,) int64, linear solves.
        converged: (T,) bool, true if no entry was infeasible at the end and the residual is at most the tolerance.
    """

    alpha: Tensor
    kkt_residual: Tensor
    iterations: Tensor
    converged: Tensor


def crammer_singer(
    kernel: Tensor,
    labels: Tensor,
    n_way: int,
    bound: float = 0.1,
    diagonal_shift: float = 1.0,
    *,
    backend: Backend = "auto",
    max_rounds: int = MAX_ROUNDS,
    tolerance: float = 1e-9,
) -> Solution:
    """Solve T Crammer-Singer duals.

    The gradient is that of the optimum in the symmetric part of the kernel; where an entry has slack and multiplier
    both zero it is one-sided. There is no second derivative.

    Args:
        kernel: K, (T, S, S), float32 or float64; float64 is used inside.
        labels: class of each sample, integers 0 .. n_way - 1, (T, S); every class occurs.
        n_way: M, number of classes.
        bound: C, greater than 0.
        diagonal_shift: added to the diagonal of K, 0 or more.
        backend: "numba" (CPU, compiled), "torch" (any device, batched) or "auto": numba on the CPU, else torch.
        max_rounds: linear solves before the fallbacks are tried.
        tolerance: largest relative KKT residual of a converged problem.

    Raises:
        ValueError: if an argument has a wrong shape, dtype or value.
        NumericalError: if the kernel is not finite.
    """
    check_problem(kernel, labels, n_way, bound, diagonal_shift)
    record: list[Solution] = []
    alpha = _CrammerSinger.apply(
        kernel, labels.long(), n_way, bound, diagonal_shift, backend, max_rounds, tolerance, record
    )
    return Solution(alpha.mT, record[0].kkt_residual, record[0].iterations, record[0].converged)


def solve(
    kernel: Tensor,
    labels: Tensor,
    n_way: int,
    bound: float,
    diagonal_shift: float,
    backend: Backend = "auto",
    max_rounds: int = MAX_ROUNDS,
    tolerance: float = 1e-9,
) -> tuple[Solution, Adjoint]:
    """Solve without recording a graph and without looking at the arguments; see `crammer_singer`.

    Returns:
        The solution, and the adjoint: gradient (T, M, S) of alpha class by class -> V (T, M, S) with
        d loss / d kernel = -(V^T alpha + alpha^T V) / 2, where alpha is (M, S).
    """
    back_end = choose_backend(backend, kernel)
    pivots = back_end.pivot(kernel, labels, n_way, bound, diagonal_shift, max_rounds)
    if not bool(pivots.solved.all()):
        if not bool(torch.isfinite(kernel).all()):
            raise NumericalError("kernel holds entries that are not finite; allowed: finite numbers")
        pivots = solve_again(back_end.pivot, pivots, kernel, labels, n_way, bound, diagonal_shift, max_rounds)
    residual = torch.as_tensor(pivots.residual)
    converged = torch.as_tensor(pivots.solved) & (residual <= tolerance)
    alpha = torch.as_tensor(pivots.alpha).to(kernel.dtype)
    return Solution(alpha.mT, residual, torch.as_tensor(pivots.rounds), converged), pivots.adjoint


def choose_backend(backend: str, kernel: Tensor) -> Any:
    """Return the module whose `pivot` solves: `pivoting_numba` or `pivoting_torch`.

    Raises:
        ValueError: if the name is unknown, or numba is asked for on an accelerator.
    """
    on_cpu = kernel.device.type == "cpu"
    if backend not in ("auto", "numba", "torch"):
        raise ValueError(f"backend is {backend!r}; allowed: 'auto', 'numba', 'torch'")
    if backend == "numba" and not on_cpu:
        raise ValueError(f"backend is 'numba', but the kernel is on {kernel.device}; allowed there: 'auto', 'torch'")
    return pivoting_numba if on_cpu and backend != "torch" else pivoting_torch


class _CrammerSinger(torch.autograd.Function):
    """Kernel (T, S, S) -> alpha (T, M, S)."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Tensor, labels: Tensor, n_way: int, bound: float, shift: float,
        backend: Backend, max_rounds: int, tolerance: float, record: list[Solution],
    ) -> Tensor:  # fmt: skip
        solution, ctx.adjoint = solve(kernel, labels, n_way, bound, shift, backend, max_rounds, tolerance)
        record.append(solution)
        alpha = solution.alpha.mT
        ctx.save_for_backward(alpha)
        return alpha

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "crammer_singer has no second derivative; call backward() or autograd.grad() with create_graph=False"
            )
        (alpha,) = ctx.saved_tensors
        half = torch.bmm(ctx.adjoint(gradient).to(alpha.dtype).mT, alpha)
        return (half + half.mT).mul_(-0.5), *[None] * 8


def check_problem(kernel: Tensor, labels: Tensor, n_way: int, bound: float, diagonal_shift: float) -> None:
    """Raise `ValueError` that names the first argument that does not fit."""
    if kernel.dim() != 3 or kernel.shape[1] != kernel.shape[2] or kernel.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"kernel has shape {tuple(kernel.shape)} and dtype {kernel.dtype}; allowed: float32 or float64 of shape "
            "(problems, samples, samples)"
        )
    if labels.shape != kernel.shape[:2] or labels.is_floating_point():
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}; allowed: integers of shape "
            f"{tuple(kernel.shape[:2])}"
        )
    if n_way < 2:
        raise ValueError(f"n_way is {n_way}; allowed: 2 or more")
    if not bound > 0:
        raise ValueError(f"bound is {bound}; allowed: greater than 0")
    if not diagonal_shift >= 0:
        raise ValueError(f"diagonal_shift is {diagonal_shift}; allowed: 0 or more")
    if labels.numel() == 0:
        raise ValueError(f"labels is empty, shape {tuple(labels.shape)}; allowed: at least one sample of each class")
    if int(labels.min()) < 0 or int(labels.max()) >= n_way:
        raise ValueError(f"labels holds {int(labels.min())} .. {int(labels.max())}; allowed: 0 .. {n_way - 1}")
    missing = (pivoting_torch.one_hot(labels.long(), n_way).sum(2) == 0).nonzero()
    if len(missing):
        problem, label = missing[0].tolist()
        raise ValueError(f"labels of problem {problem} has no sample of class {label}; allowed: at least one of each")
