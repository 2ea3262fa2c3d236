"""Crammer-Singer support vector machine head, MetaOptNet-SVM.

Source: Lee et al., CVPR 2019, Eq. 10. From the released code, not in the paper: the dual uses the kernel K + I
(`diagonal_shift`), while the scores use K. The released code stops its solver after 15 iterations in training and
validation and after 3 in testing, so its classifier is not the optimum; `solver` selects which of the two to compute.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from fewshot.checks import are_deferred, holds
from fewshot.errors import ParamsError
from fewshot.heads import SvmSettings
from fewshot.heads.certified import CertifiedHead
from fewshot.heads.kernel_scores import Adjoint, kernel_scores
from fewshot.solvers.multiclass_svm import solve
from fewshot.solvers.problem import Problem
from fewshot.solvers.truncated import by_qpth, truncated

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


class SvmHead(CertifiedHead):
    """Scores Z X^T alpha, where alpha is the dual optimum.

    >>> head = SvmHead(bound=0.5).requires_grad_(False)
    >>> support, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> head(support, labels, query=torch.tensor([[1.0, 0.0]]))
    tensor([[ 0.2000, -0.2000]])
    """

    settings: SvmSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.settings.solver == "qpth" and find_spec("qpth") is None:
            raise ParamsError(
                "solver 'qpth' needs the package qpth, which is not installed; run: pip install --no-deps qpth==0.0.18 "
                "(it declares numpy<2 but runs with numpy 2); or use solver 'truncated', which computes qpth's iterates"
            )

    @property
    def allow_unconverged(self) -> bool:
        """Whether training continues if the solver did not converge; always true for solvers stopped by design."""
        return self.settings.allow_unconverged or self.settings.solver != "exact"

    @property
    def recordable(self) -> bool:
        """Whether the solver is this project's; qpth reads values on the host."""
        return self.settings.solver != "qpth"

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        if self.settings.solver == "qpth":
            return self._scores_by_qpth(support, support_labels, query, n_way)

        def fit(kernel: Tensor) -> tuple[Tensor, Adjoint]:
            problem = self._problem(kernel, support_labels, n_way)
            if self.settings.solver == "truncated":
                solution = truncated(problem, self.settings.max_iterations, PRECISIONS[self.settings.solver_precision])
            else:
                solution = solve(problem, self.settings.backend, blindly=are_deferred())
                if are_deferred():  # no fallback was tried: to be repeated even if `allow_unconverged`
                    holds(solution.converged)
            self.certify(solution.kkt_residual, solution.converged)
            return solution.alpha, solution.adjoint

        return kernel_scores(support, query, fit)

    def _scores_by_qpth(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores with qpth, differentiated by plain autograd."""
        problem = self._problem(torch.bmm(support, support.mT), labels, n_way)
        solution = by_qpth(problem, self.settings.max_iterations, PRECISIONS[self.settings.solver_precision])
        self.certify(solution.kkt_residual, solution.converged)
        return torch.bmm(query, torch.bmm(support.mT, solution.alpha))

    def _problem(self, kernel: Tensor, labels: Tensor, n_way: int) -> Problem:
        return Problem(kernel, labels, n_way, self.settings.bound, self.settings.diagonal_shift)
