"""Simplified multi-class support vector machine head ("SVM-He"), corrected.

Source: He et al., "A simplified multi-class support vector machine with reduced dual optimization", Pattern Recognition
Letters 2012, cited by the released code of Lee et al., CVPR 2019. That code multiplies integer labels where one-hot
rows are needed and regroups support rows as if the classes alternated; here rows may be in any order.
"""

import torch
from torch import Tensor

from fewshot.heads import SvmHeSettings
from fewshot.heads.certified import CertifiedHead
from fewshot.heads.kernel_scores import Adjoint, kernel_scores
from fewshot.solvers.box import box_program


class SvmHeHead(CertifiedHead):
    """One dual variable per support image: minimise 1/2 a^T (K o V V^T) a - sum a, 0 <= a <= bound.

    V (S, M) is 1 for an image's own class and -1 / (M - 1) for the others; the score of class m is the sum of
    a_i <x_i, z> over the images of class m.

    >>> head = SvmHeHead(bound=0.5).requires_grad_(False)
    >>> support, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> head(support, labels, query=torch.tensor([[1.0, 0.0]]))
    tensor([[0.2500, 0.0000]])
    """

    settings: SvmHeSettings

    @property
    def recordable(self) -> bool:
        """False: the solver reads on the host how many problems are unsolved."""
        return False

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        members = torch.nn.functional.one_hot(support_labels, n_way).double()
        codes = (n_way * members - 1) / (n_way - 1)

        def fit(kernel: Tensor) -> tuple[Tensor, Adjoint]:
            ones = torch.ones_like(support_labels, dtype=torch.float64)
            solution = box_program(kernel.double() * (codes @ codes.mT), ones, self.settings.bound * ones)
            self.certify(solution.kkt_residual, solution.converged)
            dual = solution.alpha.unsqueeze(2)

            def adjoint(gradient: Tensor) -> tuple[Tensor, Tensor]:
                v = solution.adjoint((gradient * members).sum(2))
                return codes * v.unsqueeze(2), codes * dual

            return members * dual, adjoint

        return kernel_scores(support, query, fit)
