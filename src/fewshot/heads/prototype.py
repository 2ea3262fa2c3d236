"""Nearest class mean (prototypical networks).

Source: Snell, Swersky, Zemel, NeurIPS 2017, Eq. 1-2, with distances divided by d as in the released code of
Lee et al., CVPR 2019.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewshot.heads import PrototypeSettings
from fewshot.heads.base import Head


class PrototypeHead(Head):
    """Score = minus the squared distance to the class mean, divided by d unless `divide_by_dimension` is false.

    >>> head = PrototypeHead(divide_by_dimension=False)
    >>> support, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    >>> head(support, labels, query=torch.tensor([[2.0, 1.0]]))
    tensor([[-1., -4.]], grad_fn=<SqueezeBackward1>)
    """

    settings: PrototypeSettings

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        prototypes = class_means(support, support_labels, n_way)
        squares = query.square().sum(2, keepdim=True) + prototypes.square().sum(2).unsqueeze(1)
        distances = squares - 2 * torch.bmm(query, prototypes.mT)
        return -distances / support.shape[2] if self.settings.divide_by_dimension else -distances


def class_means(support: Tensor, support_labels: Tensor, n_way: int) -> Tensor:
    """Return the mean embedding of each class, (T, M, d), of embeddings (T, S, d) with labels (T, S)."""
    members = one_hot(support_labels, n_way).to(support.dtype).mT
    return torch.bmm(members / members.sum(2, keepdim=True), support)
