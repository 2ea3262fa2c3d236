"""Ridge regression head of R2D2, without the learned bias and learned lambda.

Source: Bertinetto et al., ICLR 2019, Eq. 4-5 (Woodbury form); lambda fixed at 50 as in Lee et al., CVPR 2019.
"""

from torch import Tensor

from fewshot.heads import R2D2Settings
from fewshot.heads.base import Head
from fewshot.heads.kernel_scores import kernel_scores
from fewshot.heads.ridge_fit import ridge_fit


class R2D2Head(Head):
    """Scores Z W with W = X^T (X X^T + ridge I)^-1 Y.

    >>> import torch
    >>> head = R2D2Head(ridge=1.0).requires_grad_(False)
    >>> head(torch.eye(2), torch.tensor([0, 1]), query=torch.tensor([[1.0, 0.0]]))
    tensor([[0.5000, 0.0000]])
    """

    settings: R2D2Settings

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        ridge = self.settings.ridge
        return kernel_scores(support, query, lambda kernel: ridge_fit(kernel, support_labels, n_way, ridge, 1.0))
