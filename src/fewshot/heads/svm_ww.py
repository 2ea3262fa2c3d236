"""Weston-Watkins support vector machine head, symmetrised.

Source: Weston and Watkins, ESANN 1999, as in the released code of Lee et al., CVPR 2019. The matrix in that code is not
symmetric (so solvers solve a different problem from the one intended); its symmetric part is used here.
"""

import torch
from torch import Tensor

from fewshot.heads import SvmWwSettings
from fewshot.heads.certified import CertifiedHead
from fewshot.heads.kernel_scores import Adjoint, kernel_scores
from fewshot.solvers.box import box_program

COUPLING = 2 - 1e-4
"""Weight of the coupling term: 2 in the derivation, slightly less in the released code to keep the matrix definite."""


class SvmWwHead(CertifiedHead):
    """Dual variables a (S, M), 0 <= a <= bound, zero for an image's own class; the kernel K + 1 adds a bias.

    Coefficients c_im = [y_i = m] sum_k a_ik - a_im; score of class m: sum_i c_im (<x_i, z> + 1). The variables of the
    box-constrained program are ordered class by class.

    >>> head = SvmWwHead(bound=0.5).requires_grad_(False)
    >>> support, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> head(support, labels, query=torch.tensor([[1.0, 0.0]]))
    tensor([[ 0.5000, -0.5000]])
    """

    settings: SvmWwSettings

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        members = torch.nn.functional.one_hot(support_labels, n_way).double()

        def fit(kernel: Tensor) -> tuple[Tensor, Adjoint]:
            matrix = _dual_matrix(kernel.double() + 1, members)
            upper = _variables(self.settings.bound * (1 - members))
            solution = box_program(matrix, torch.full_like(upper, 2.0), upper)
            self.certify(solution.kkt_residual, solution.converged)
            dual = _by_sample(solution.alpha, n_way)

            def adjoint(gradient: Tensor) -> tuple[Tensor, Tensor]:
                by_dual = (gradient * members).sum(2, keepdim=True) - gradient
                v = _by_sample(solution.adjoint(_variables(by_dual)), n_way)
                half = (2 - COUPLING) / 2
                left = torch.cat([_coefficients(v, members), half * _own(v, members), half * v], 2)
                return left, torch.cat([_coefficients(dual, members), dual, _own(dual, members)], 2)

            return _coefficients(dual, members), adjoint

        return kernel_scores(support, query, fit, bias=True)


def _variables(values: Tensor) -> Tensor:
    """Return values (T, S, M) as the program's variables, (T, M S), ordered by m * S + i."""
    return values.mT.flatten(1)


def _by_sample(variables: Tensor, n_way: int) -> Tensor:
    """Return variables (T, M S) as values (T, S, M)."""
    return variables.unflatten(1, (n_way, -1)).mT


def _own(dual: Tensor, members: Tensor) -> Tensor:
    """Return [y_i = m] sum_k a_ik, (T, S, M)."""
    return members * dual.sum(2, keepdim=True)


def _coefficients(dual: Tensor, members: Tensor) -> Tensor:
    return _own(dual, members) - dual


def _dual_matrix(kernel: Tensor, members: Tensor) -> Tensor:
    """Return the symmetric part of the quadratic matrix, (T, M S, M S), for variables ordered by m * S + i."""
    n_problems, n_samples, n_way = members.shape
    classes = torch.eye(n_way, dtype=kernel.dtype, device=kernel.device)
    same_class = (members @ members.mT) * kernel
    # coupling[(m, i), (k, j)] = [y_i = k] K_ij
    coupling = torch.einsum("tik,tij->tikj", members, kernel).unsqueeze(1).expand(-1, n_way, -1, -1, -1)
    coupling = coupling.reshape(n_problems, n_way * n_samples, n_way * n_samples)
    separate = torch.einsum("mk,tij->tmikj", classes, kernel).reshape_as(coupling)
    return separate + same_class.repeat(1, n_way, n_way) - COUPLING / 2 * (coupling + coupling.mT)
