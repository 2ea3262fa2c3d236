"""Weston-Watkins support vector machine head, symmetrised.

Source: Weston and Watkins, ESANN 1999, as in the released code of Lee et al., CVPR 2019. The matrix of that code is not
symmetric (solvers then work on another problem than meant); its symmetric part is used here.
"""

import torch
from torch import Tensor

from fewshot.heads.certified import CertifiedHead
from fewshot.heads.kernel_scores import Adjoint, kernel_scores
from fewshot.solvers.box import box_program

COUPLING = 2 - 1e-4
"""Weight of the coupling term; 2 in the derivation, a little less in the released code to keep the matrix definite."""


class SvmWwHead(CertifiedHead):
    """Dual variables a (M, S), 0 <= a <= C, zero for an image's own class; kernel K + 1, so that there is a bias.

    Coefficients c_mi = [y_i = m] sum_k a_ki - a_mi; score of class m: sum_i c_mi (<x_i, z> + 1).
    """

    def __init__(self, bound: float = 1e-5, allow_unconverged: bool = False) -> None:
        super().__init__(allow_unconverged)
        self.bound = bound

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        members = torch.nn.functional.one_hot(support_labels, n_way).mT.double()

        def fit(kernel: Tensor) -> tuple[Tensor, Adjoint]:
            matrix = _dual_matrix(kernel.double() + 1, members)
            upper = (self.bound * (1 - members)).flatten(1)
            solution = box_program(matrix, torch.full_like(upper, 2.0), upper)
            self.certify(solution.kkt_residual, solution.converged)
            dual = solution.x.view_as(members)

            def adjoint(gradient: Tensor) -> tuple[Tensor, Tensor]:
                by_dual = (gradient * members).sum(1, keepdim=True) - gradient
                v = solution.adjoint(by_dual.flatten(1)).view_as(members)
                half = (2 - COUPLING) / 2
                left = torch.cat([_coefficients(v, members), half * _own(v, members), half * v], 1)
                return left, torch.cat([_coefficients(dual, members), dual, _own(dual, members)], 1)

            return _coefficients(dual, members), adjoint

        return kernel_scores(support, query, fit, bias=True)


def _own(dual: Tensor, members: Tensor) -> Tensor:
    """Return [y_i = m] sum_k a_ki, (T, M, S)."""
    return members * dual.sum(1, keepdim=True)


def _coefficients(dual: Tensor, members: Tensor) -> Tensor:
    return _own(dual, members) - dual


def _dual_matrix(kernel: Tensor, members: Tensor) -> Tensor:
    """Return the symmetric part of the quadratic matrix, (T, M S, M S), of variables m * S + i."""
    n_problems, n_way, n_samples = members.shape
    classes = torch.eye(n_way, dtype=kernel.dtype, device=kernel.device)
    same_class = (members.mT @ members) * kernel
    # coupling[(m, i), (k, j)] = [y_i = k] K_ij
    coupling = torch.einsum("tki,tij->tikj", members, kernel).unsqueeze(1).expand(-1, n_way, -1, -1, -1)
    coupling = coupling.reshape(n_problems, n_way * n_samples, n_way * n_samples)
    separate = torch.einsum("mk,tij->tmikj", classes, kernel).reshape_as(coupling)
    return separate + same_class.repeat(1, n_way, n_way) - COUPLING / 2 * (coupling + coupling.mT)
