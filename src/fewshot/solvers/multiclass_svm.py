"""The dual of the Crammer-Singer multi-class support vector machine: differentiable, solved to rounding error.

For T problems with S samples, M classes, one-hot labels Y (S, M) and a positive semi-definite kernel K (S, S):

    minimise over alpha (S, M)   1/2 tr(alpha^T (K + shift I) alpha) - <Y, alpha>
    subject to                   alpha <= bound Y,   sum over classes of alpha = 0

Source: Crammer and Singer, JMLR 2001, in the form of Lee et al., CVPR 2019, Eq. 10.

Method. If the entries strictly below their bound (the free set) were known, alpha would follow from linear equations
with one (S, S) block per class and one Schur complement (`saddle`). Block principal pivoting starts with all entries
free (the ridge solution), solves, moves all infeasible entries across at once and repeats; once nothing is infeasible,
alpha is optimal to rounding error. This takes 1 to 12 solves, and the backward pass reuses the factors of the last one.
Source: Judice and Pires, Comput. Oper. Res. 1994; equivalent to a semismooth Newton method.

Where pivoting cycles (more samples than features and a large scale), the initial free set is taken from an interior
point and then from a continuation in the shift; a problem that remains unsolved is reported as not converged.
"""

from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor

from . import pivoting_numba, pivoting_torch
from .fallback import solve_again
from .problem import Problem
from .solution import Solution, by_class

Backend = Literal["auto", "numba", "torch"]

MAX_ROUNDS = 50
"""Linear solves before the fallbacks are tried on a problem; 3 to 12 are typical, and a cycle never ends."""


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
    """Solve T Crammer-Singer duals, or a single one.

    `alpha` is differentiable with respect to the kernel, of which only the symmetric part is used. Where the slack and
    the multiplier of an entry are both zero, the derivative is one-sided. There is no second derivative.

    Args:
        kernel: K, (T, S, S), float32 or float64; computed in float64. (S, S) for a single problem.
        labels: class of each sample, integers 0 .. n_way - 1, (T, S) or (S,); every class must occur.
        n_way: M, number of classes.
        bound: C, greater than 0.
        diagonal_shift: added to the diagonal of K, 0 or more.
        backend: "numba" (CPU, compiled), "torch" (any device, batched) or "auto": numba on the CPU, else torch.
        max_rounds: linear solves before the fallbacks are tried, 1 or more.
        tolerance: largest relative KKT residual of a converged problem.

    Returns:
        The solution with alpha (T, S, M) in the dtype of the kernel; residuals as defined in `kkt_residual`.

    Raises:
        TypeError: if the kernel or the labels are no tensor, or another argument is no number.
        ValueError: if an argument has a wrong shape, dtype or value.
        FloatingPointError: if the kernel has non-finite entries.

    >>> features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> solution = crammer_singer(features @ features.T, labels, n_way=2)
    >>> solution.alpha
    tensor([[ 0.0600, -0.0600],
            [ 0.1000, -0.1000],
            [-0.1000,  0.1000],
            [-0.0600,  0.0600]])
    >>> bool(solution.converged), solution.kkt_residual.item() < 1e-9
    (True, True)
    """
    problem = Problem(kernel, labels, n_way, bound, diagonal_shift)
    problem.check()
    if not isinstance(max_rounds, Integral) or max_rounds < 1:
        raise ValueError(f"max_rounds is {max_rounds!r}; allowed: 1 or more, an integer")
    if not isinstance(tolerance, Real) or not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance!r}; allowed: a number, 0 or more")
    problem = problem.batched()
    record: list[Solution] = []
    alpha = _CrammerSinger.apply(problem.kernel, problem, backend, max_rounds, tolerance, record)
    solution = replace(record[0], alpha=alpha.mT)
    return solution.single() if kernel.dim() == 2 else solution


def solve(
    problem: Problem,
    backend: Backend = "auto",
    max_rounds: int = MAX_ROUNDS,
    tolerance: float = 1e-9,
    *,
    blindly: bool = False,
) -> Solution:
    """Solve without recording a graph or validating the problem; see `crammer_singer`.

    Args:
        problem: T problems.
        backend: see `crammer_singer`.
        max_rounds: see `crammer_singer`.
        tolerance: see `crammer_singer`.
        blindly: on an accelerator, a fixed number of rounds without reading anything on the host, and no fallback: the
            caller must look at `converged`.
    """
    back_end = choose_backend(backend, problem.kernel)
    if blindly and back_end is pivoting_torch:
        pivots: Any = pivoting_torch.pivot_blindly(problem)
    else:
        pivots = _solved_or_best(back_end.pivot, problem, max_rounds)
    residual = torch.as_tensor(pivots.residual)
    converged = torch.as_tensor(pivots.solved) & (residual <= tolerance)
    alpha = torch.as_tensor(pivots.alpha).to(problem.kernel.dtype)
    return Solution(alpha.mT, residual, torch.as_tensor(pivots.rounds), converged, by_class(pivots.adjoint))


def _solved_or_best(pivot: Any, problem: Problem, max_rounds: int) -> Any:
    """Return the state of a backend after pivoting, and after the fallbacks if a problem needs them."""
    pivots = pivot(problem, max_rounds)
    if bool(pivots.solved.all()):
        return pivots
    if not bool(torch.isfinite(problem.kernel).all()):
        raise FloatingPointError("kernel has non-finite entries; allowed: finite numbers")
    return solve_again(pivot, pivots, problem, max_rounds)


def choose_backend(backend: str, kernel: Tensor) -> Any:
    """Return the module whose `pivot` to use: `pivoting_numba` or `pivoting_torch`.

    Raises:
        ValueError: if the name is unknown, or is "numba" on an accelerator.
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
        ctx: Any,
        kernel: Tensor,
        problem: Problem,
        backend: Backend,
        max_rounds: int,
        tolerance: float,
        record: list[Solution],
    ) -> Tensor:
        solution = solve(problem, backend, max_rounds, tolerance)
        record.append(solution)
        ctx.adjoint = solution.adjoint
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
        half = torch.bmm(ctx.adjoint(gradient.mT).to(alpha.dtype), alpha)
        return (half + half.mT).mul_(-0.5), *[None] * 5
