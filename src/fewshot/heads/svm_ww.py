"""Weston-Watkins support vector machine head, symmetrised.

Source: Weston and Watkins, ESANN 1999, as in the released code of Lee et al., CVPR 2019. The matrix in that code is not
symmetric (so solvers solve a different problem from the one intended); its symmetric part is used here. It is positive
definite if there are at most as many support images as features plus one; beyond that, and with a large `bound`, some
episodes are reported as not converged.
"""

import torch
from torch import Tensor

from fewshot.heads import SvmWwSettings
from fewshot.heads.certified import CertifiedHead
from fewshot.heads.kernel_scores import Adjoint, kernel_scores
from fewshot.solvers.weston_watkins import weston_watkins

COUPLING = 2 - 1e-4
"""Weight of the coupling terms: 2 in the derivation, slightly less in the released code to keep the matrix definite."""


class SvmWwHead(CertifiedHead):
    """Dual variables a (S, M), 0 <= a <= bound, zero for an image's own class; the kernel K + 1 adds a bias.

    Coefficients c_im = [y_i = m] sum_k a_ik - a_im; score of class m: sum_i c_im (<x_i, z> + 1).

    >>> head = SvmWwHead(bound=0.5).requires_grad_(False)
    >>> support, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> head(support, labels, query=torch.tensor([[1.0, 0.0]]))
    tensor([[ 0.5000, -0.5000]])
    """

    settings: SvmWwSettings

    @property
    def recordable(self) -> bool:
        """False: the solver reads on the host how many problems are unsolved."""
        return False

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        members = torch.nn.functional.one_hot(support_labels, n_way).double()

        def fit(kernel: Tensor) -> tuple[Tensor, Adjoint]:
            solution = weston_watkins(
                kernel.double() + 1, support_labels, n_way, self.settings.bound, coupling=COUPLING / 2
            )
            self.certify(solution.kkt_residual, solution.converged)
            dual = solution.alpha

            def adjoint(gradient: Tensor) -> tuple[Tensor, Tensor]:
                by_dual = (gradient * members).sum(2, keepdim=True) - gradient
                v = solution.adjoint(by_dual)
                half = (2 - COUPLING) / 2
                left = torch.cat([_coefficients(v, members), half * _own(v, members), half * v], 2)
                return left, torch.cat([_coefficients(dual, members), dual, _own(dual, members)], 2)

            return _coefficients(dual, members), adjoint

        return kernel_scores(support, query, fit, bias=True)


def _own(dual: Tensor, members: Tensor) -> Tensor:
    """Return [y_i = m] sum_k a_ik, (T, S, M)."""
    return members * dual.sum(2, keepdim=True)


def _coefficients(dual: Tensor, members: Tensor) -> Tensor:
    return _own(dual, members) - dual
