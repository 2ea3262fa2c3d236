"""Ridge regression head, MetaOptNet-RR.

Source: Lee et al., CVPR 2019, Eq. 11. The printed equation has one-hot targets; the released code, which gave the
published numbers, has twice these (the authors call the print a typo), hence `target_scale` = 2.
"""

from torch import Tensor

from fewshot.heads.base import Head
from fewshot.heads.kernel_scores import kernel_scores
from fewshot.heads.ridge_fit import ridge_fit


class RidgeHead(Head):
    """Scores Z X^T A with A = target_scale (X X^T + ridge I)^-1 Y."""

    def __init__(self, ridge: float = 50.0, target_scale: float = 2.0) -> None:
        super().__init__()
        self.ridge, self.target_scale = ridge, target_scale

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        return kernel_scores(
            support, query, lambda kernel: ridge_fit(kernel, support_labels, n_way, self.ridge, self.target_scale)
        )
