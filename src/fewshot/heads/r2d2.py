"""Ridge regression head of R2D2, without its learnt bias and its learnt lambda.

Source: Bertinetto et al., ICLR 2019, Eq. 4-5 (Woodbury form); lambda fixed at 50 as Lee et al., CVPR 2019, run it.
"""

from torch import Tensor

from fewshot.heads.base import Head
from fewshot.heads.kernel_scores import kernel_scores
from fewshot.heads.ridge_fit import ridge_fit


class R2D2Head(Head):
    """Scores Z W with W = X^T (X X^T + ridge I)^-1 Y."""

    def __init__(self, ridge: float = 50.0) -> None:
        super().__init__()
        self.ridge = ridge

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        return kernel_scores(support, query, lambda kernel: ridge_fit(kernel, support_labels, n_way, self.ridge, 1.0))
