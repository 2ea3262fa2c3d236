"""Ridge regression head, MetaOptNet-RR.

Source: Lee et al., CVPR 2019, Eq. 11. The printed equation has one-hot targets; the released code, which produced the
published numbers, doubles them (the authors call the equation a typo), hence the default `target_scale` of 2.
"""

from torch import Tensor

from fewshot.heads import RidgeSettings
from fewshot.heads.base import Head
from fewshot.heads.kernel_scores import kernel_scores
from fewshot.heads.ridge_fit import ridge_fit


class RidgeHead(Head):
    """Scores Z X^T A with A = target_scale (X X^T + ridge I)^-1 Y.

    The same in plain torch, for a single episode:

    >>> import torch
    >>> support, query = torch.randn(5, 64), torch.randn(3, 64)
    >>> labels = torch.arange(5)
    >>> targets = 2.0 * torch.nn.functional.one_hot(labels).float()
    >>> coefficients = torch.linalg.solve(support @ support.T + 50.0 * torch.eye(5), targets)
    >>> scores = query @ support.T @ coefficients
    >>> torch.allclose(RidgeHead()(support, labels, query), scores, atol=1e-5)
    True
    """

    settings: RidgeSettings

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        ridge, target_scale = self.settings.ridge, self.settings.target_scale
        return kernel_scores(
            support, query, lambda kernel: ridge_fit(kernel, support_labels, n_way, ridge, target_scale)
        )
