"""Cosine similarity to the class mean: the classifier of Meta-Baseline, with a learned scale.

Source: Chen, Liu, Xu, Darrell, Wang, "Meta-Baseline", ICCV 2021, Eq. 1 and 2: the mean of the class's embeddings, and
the cosine times a learned scale, which starts at 10 there (`initial_scale: 10`; the default is 1 for every head).
"""

import torch
from torch import Tensor

from fewshot.heads import CosineSettings
from fewshot.heads.base import Head
from fewshot.heads.prototype import class_means


class CosineHead(Head):
    """Score = cosine of the angle between the query and the class mean; 0 if either is the zero vector.

    >>> head = CosineHead().requires_grad_(False)
    >>> support, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    >>> head(support, labels, query=torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """

    settings: CosineSettings

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M)."""
        means = class_means(support, support_labels, n_way)
        return torch.bmm(unit_vectors(query), unit_vectors(means).mT)


def unit_vectors(features: Tensor) -> Tensor:
    """Divide features (..., d) by their norm; the zero vector stays, with a finite gradient."""
    norms = features.norm(dim=-1, keepdim=True)
    return features / norms.where(norms > 0, torch.ones_like(norms))
