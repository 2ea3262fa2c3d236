"""Simplified multi-class support vector machine head ("SVM-He"), repaired.

Source: He et al., "A simplified multi-class support vector machine with reduced dual optimization", Pattern Recognition
Letters 2012, as named in the released code of Lee et al., CVPR 2019. That code multiplies integer labels where one-hot
rows are needed and regroups support rows as if they came class by class in turn; here rows come in any order.
"""

import torch
from torch import Tensor

from fewshot.heads.certified import CertifiedHead
from fewshot.heads.kernel_scores import Adjoint, kernel_scores
from fewshot.solvers.box import box_program


class SvmHeHead(CertifiedHead):
    """One dual variable a support image: minimise 1/2 a^T (K o V^T V) a - sum a, 0 <= a <= C.

    V (M, S) is 1 for an image's class and -1 / (M - 1) for the others; the score of class m is the sum of a_i <x_i, z>
    over the images of class m.
    """

    def __init__(self, bound: float = 0.01, allow_unconverged: bool = False) -> None:
        super().__init__(allow_unconverged)
        self.bound = bound

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        members = torch.nn.functional.one_hot(support_labels, n_way).mT.double()
        codes = (n_way * members - 1) / (n_way - 1)

        def fit(kernel: Tensor) -> tuple[Tensor, Adjoint]:
            ones = torch.ones_like(support_labels, dtype=torch.float64)
            solution = box_program(kernel.double() * (codes.mT @ codes), ones, self.bound * ones)
            self.certify(solution.kkt_residual, solution.converged)

            def adjoint(gradient: Tensor) -> tuple[Tensor, Tensor]:
                v = solution.adjoint((gradient * members).sum(1))
                return codes * v.unsqueeze(1), codes * solution.x.unsqueeze(1)

            return members * solution.x.unsqueeze(1), adjoint

        return kernel_scores(support, query, fit)
