"""Nearest class mean (prototypical networks).

Source: Snell, Swersky, Zemel, NeurIPS 2017, Eq. 1-2; distances divided by d as in the released code of
Lee et al., CVPR 2019.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewshot.heads.base import Head


class PrototypeHead(Head):
    """Score = minus the squared distance to the mean of the class, divided by d unless told otherwise."""

    def __init__(self, divide_by_dimension: bool = True) -> None:
        super().__init__()
        self.divide_by_dimension = divide_by_dimension

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        members = one_hot(support_labels, n_way).to(support.dtype).mT
        prototypes = torch.bmm(members / members.sum(2, keepdim=True), support)
        squares = query.square().sum(2, keepdim=True) + prototypes.square().sum(2).unsqueeze(1)
        distances = squares - 2 * torch.bmm(query, prototypes.mT)
        return -distances / support.shape[2] if self.divide_by_dimension else -distances
