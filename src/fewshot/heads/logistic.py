"""Multinomial logistic regression on the support set, the classifier of RFS.

Source: Tian, Wang, Krishnan, Tenenbaum, Isola, "Rethinking Few-Shot Image Classification", ECCV 2020, Eq. 6 and
section 4.1, whose code calls scikit-learn. The fit is the same optimum, to rounding, for all episodes at once.
"""

import torch
from torch import Tensor

from fewshot.heads import LogisticSettings
from fewshot.heads.certified import CertifiedHead
from fewshot.heads.logistic_fit import logistic_fit


class LogisticHead(CertifiedHead):
    """Scores Z X^T A + b that minimise ||X^T A||^2 / 2 + loss_weight * (summed cross-entropy); b is not penalised.

    >>> head = LogisticHead().requires_grad_(False)
    >>> support, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> head(support, labels, query=torch.tensor([[1.0, 0.0]])).softmax(1)
    tensor([[0.6772, 0.3228]])
    """

    settings: LogisticSettings

    @property
    def recordable(self) -> bool:
        """False: the fit reads on the host whether Newton's method has converged."""
        return False

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        kernel = torch.bmm(support, support.mT)
        fit = logistic_fit(kernel, support_labels, n_way, self.settings.loss_weight)
        self.certify(fit.residual, fit.converged)
        weights = torch.bmm(support.mT, fit.coefficients.to(support.dtype))
        return torch.bmm(query, weights) + fit.intercept.to(support.dtype).unsqueeze(1)
