"""The result of a solver."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Adjoint = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """Optima of T problems; for a single problem, the same without the first axis.

    Attributes:
        alpha: dual variables; (T, S, M) for a Crammer-Singer dual, (T, N) for a box-constrained program.
        kkt_residual: (T,) float64, relative distance of alpha from the optimum, as defined by the solver.
        iterations: (T,) int64, linear solves or, for a truncated solver, its iterations.
        converged: (T,) bool, no entry is infeasible and the residual is at most the tolerance.
        adjoint: gradient of alpha -> V, both shaped like alpha, with
            d loss / d matrix = -(V alpha^T + alpha V^T) / 2 for the kernel K or the matrix H of the program.
    """

    alpha: Tensor
    kkt_residual: Tensor
    iterations: Tensor
    converged: Tensor
    adjoint: Adjoint

    def single(self) -> "Solution":
        """Return the first problem's solution, without the problem axis."""

        def adjoint(gradient: Tensor) -> Tensor:
            return self.adjoint(gradient.unsqueeze(0)).squeeze(0)

        return Solution(self.alpha[0], self.kkt_residual[0], self.iterations[0], self.converged[0], adjoint)


def by_class(adjoint: Adjoint) -> Adjoint:
    """Return an adjoint of alpha (T, M, S) as one of alpha (T, S, M)."""
    return lambda gradient: adjoint(gradient.mT).mT
