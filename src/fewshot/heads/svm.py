"""Crammer-Singer support vector machine head, MetaOptNet-SVM.

Source: Lee et al., CVPR 2019, Eq. 10. From the released code, not in the paper: the dual is that of the kernel K + I
(`diagonal_shift`), while the scores use K. The released code stops its solver after 15 iterations in training and
validation and after 3 in testing, which is another classifier than the optimum; `solver` says which is wanted.
"""

import torch
from torch import Tensor

from fewshot.heads.certified import CertifiedHead
from fewshot.heads.kernel_scores import Adjoint, kernel_scores
from fewshot.solvers.multiclass_svm import Backend, solve
from fewshot.solvers.truncated import by_qpth, truncated


class SvmHead(CertifiedHead):
    """Scores Z X^T alpha with alpha the dual optimum; settings as in `fewshot.heads.SvmSettings`."""

    def __init__(
        self,
        bound: float = 0.1,
        diagonal_shift: float = 1.0,
        solver: str = "exact",
        backend: Backend = "auto",
        max_iterations: int = 15,
        max_iterations_evaluation: int = 3,
        solver_precision: str = "float32",
        allow_unconverged: bool = False,
    ) -> None:
        super().__init__(allow_unconverged or solver != "exact")
        self.bound, self.diagonal_shift = bound, diagonal_shift
        self.solver, self.backend = solver, backend
        self.iterations = {True: max_iterations, False: max_iterations_evaluation}
        self.precision = {"float32": torch.float32, "float64": torch.float64}[solver_precision]

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        if self.solver == "qpth":
            return self._scores_by_qpth(support, support_labels, query, n_way)

        def fit(kernel: Tensor) -> tuple[Tensor, Adjoint]:
            if self.solver == "truncated":
                solution, adjoint = truncated(
                    kernel, support_labels, n_way, self.bound, self.diagonal_shift, self.iterations[self.training],
                    self.precision,
                )  # fmt: skip
            else:
                solution, adjoint = solve(kernel, support_labels, n_way, self.bound, self.diagonal_shift, self.backend)
            self.certify(solution.kkt_residual, solution.converged)
            return solution.alpha.mT, adjoint

        return kernel_scores(support, query, fit)

    def _scores_by_qpth(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores by plain automatic differentiation around qpth."""
        solution = by_qpth(
            torch.bmm(support, support.mT), labels, n_way, self.bound, self.diagonal_shift,
            self.iterations[self.training], self.precision,
        )  # fmt: skip
        self.certify(solution.kkt_residual, solution.converged)
        return torch.bmm(query, torch.bmm(support.mT, solution.alpha))
