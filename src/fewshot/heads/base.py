"""What a head is: embeddings of an episode's support and query images -> scores of the query images.

Shapes: T episodes, M ways, S support images, Q query images in all, d features.
"""

from math import isfinite

import numpy as np
import torch
from torch import Tensor, nn

from fewshot.errors import NumericalError


class Head(nn.Module):
    """Base class of heads; a subclass gives `scores`.

    Attributes:
        scale: learnable factor of the scores, scalar (gamma in Lee et al., CVPR 2019, Eq. 12); 1 at the start, or what
            `build_head` is told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, *, n_way: int) -> Tensor:
        """Score query images by a classifier fitted on the support images of the same episode.

        Args:
            support: embeddings, (T, S, d), rows in any order.
            support_labels: class of each row, integers 0 .. M - 1, (T, S); every class occurs.
            query: embeddings, (T, Q, d).
            n_way: M, number of classes.

        Returns:
            Scores times `scale`, (T, Q, M), in the inputs' dtype (float32 for half precision); larger is more likely.

        Raises:
            ValueError: if shapes, dtypes or labels do not fit.
            NumericalError: if an embedding is not finite.
        """
        check_shapes(support, support_labels, query, n_way)
        check_labels(support_labels, n_way)
        if support.dtype in (torch.float16, torch.bfloat16):
            support, query = support.float(), query.float()
        if torch.is_autocast_enabled(support.device.type):
            with torch.autocast(support.device.type, enabled=False):
                return self.scale * self._finite_scores(support, support_labels, query, n_way)
        return self.scale * self._finite_scores(support, support_labels, query, n_way)

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M); arguments as in `forward`, already checked."""
        raise NotImplementedError

    def take_certificates(self) -> dict[str, np.ndarray]:
        """Return what a solver reported for each episode evaluated since the last call: name -> (episodes,)."""
        return {}

    def _finite_scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return `scores`; if a fit fails or they are not finite, say which embedding is not.

        A non-finite embedding always shows in the kernel or in the scores, which are far smaller.
        """
        try:
            scores = self.scores(support, support_labels.long(), query, n_way)
            finite = isfinite(scores.detach().sum())  # one operation; only finite numbers can sum to one
            if not (finite or torch.isfinite(scores.detach()).all()):
                raise NumericalError(
                    "scores are not finite although the embeddings are: products overflow; scale them down"
                )
        except NumericalError:
            for name, value in (("support", support), ("query", query)):
                check_finite(name, value)
            raise
        return scores


def check_shapes(support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> None:
    """Raise `ValueError` unless the tensors are those of T episodes."""
    if n_way < 2:
        raise ValueError(f"n_way is {n_way}; allowed: 2 or more")
    for name, value in (("support", support), ("query", query)):
        if value.dim() != 3 or not value.is_floating_point():
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} and dtype {value.dtype}; allowed: floating point of shape "
                "(episodes, images, features)"
            )
    if query.shape[0] != support.shape[0] or query.shape[2] != support.shape[2] or query.dtype != support.dtype:
        raise ValueError(
            f"query has shape {tuple(query.shape)} and dtype {query.dtype}; allowed: the episodes, features and dtype "
            f"of support, which has shape {tuple(support.shape)} and dtype {support.dtype}"
        )
    if support_labels.shape != support.shape[:2] or support_labels.is_floating_point():
        raise ValueError(
            f"support_labels has shape {tuple(support_labels.shape)} and dtype {support_labels.dtype}; allowed: "
            f"integers of shape {tuple(support.shape[:2])}, one for each support image"
        )


def check_labels(labels: Tensor, n_way: int) -> None:
    """Raise `ValueError` unless each row of `labels` (T, S) holds every class 0 .. n_way - 1 and nothing else."""
    if labels.numel() == 0:
        raise ValueError(f"support_labels is empty, shape {tuple(labels.shape)}; allowed: at least one image a class")
    classes = set(range(n_way))
    for episode, row in enumerate(labels.tolist()):  # one copy from the device; a few microseconds for a meta-batch
        found = set(row)
        if found == classes:
            continue
        for label in found - classes:
            raise ValueError(f"support_labels holds {label}; allowed: 0 .. {n_way - 1} (n_way is {n_way})")
        raise ValueError(
            f"support_labels of episode {episode} has no image of class {min(classes - found)}; allowed: at least one "
            f"for each of the {n_way} classes"
        )


def check_finite(name: str, value: Tensor) -> None:
    """Raise `NumericalError` that names the first non-finite entry of `value`."""
    wrong = (~torch.isfinite(value)).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise NumericalError(
            f"{name}{list(place)} is {value[place].item()}; allowed: finite numbers. {len(wrong)} such entries; a too "
            "large learning rate is the usual cause"
        )
