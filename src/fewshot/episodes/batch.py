"""Batches of episodes: the images of drawn episodes as tensors.

Shapes: T episodes, M ways, S support images, Q query images in all, C x H x W.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fewshot.episodes.draw import EpisodeIndices, class_labels


class Rows(Protocol):
    """Images that can be copied by row number."""

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Batch:
    """Tensors whose first axis is that of the batch; `host` names the one that is read, and stays, on the host."""

    host: ClassVar[str] = "ids"

    def __len__(self) -> int:
        raise NotImplementedError

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on a device, except the ids."""
        return replace(self._each(lambda tensor: tensor.to(device)), **{self.host: getattr(self, self.host)})

    def chunks(self, size: int) -> Iterator[Self]:
        """Yield the batch in consecutive parts of at most `size` items."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self._each(lambda tensor, part=part: tensor[part])  # type: ignore[misc]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the batch with `change` applied to every tensor."""
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class EpisodeBatch(Batch):
    """A batch of episodes with equal numbers of ways, shots and queries.

    Attributes:
        support_images: (T, S, C, H, W); uint8 as drawn, float32 after `fewshot.images.preprocess.Preprocess`.
        support_labels: (T, S) int64, 0 .. M-1, in any order.
        query_images: (T, Q, C, H, W), like `support_images`.
        query_labels: (T, Q) int64.
        episode_ids: (T,) int64, the index from which each episode was drawn; augmentation depends on it. Always on the
            host, which reads it.
        n_way: M.
    """

    support_images: Tensor
    support_labels: Tensor
    query_images: Tensor
    query_labels: Tensor
    episode_ids: Tensor
    n_way: int

    host: ClassVar[str] = "episode_ids"

    def __len__(self) -> int:
        return self.support_labels.shape[0]


def gather_batch(images: Rows, class_starts: np.ndarray, episodes: EpisodeIndices, n_shot: int) -> EpisodeBatch:
    """Copy the images of drawn episodes from a split's array.

    Args:
        images: (N, H, W, C) uint8, sorted by class; an array, a memory map or anything that returns copies of rows.
        class_starts: (number of classes,) first row of each class.
        episodes: T drawn episodes.
        n_shot: support images per class to use, at most `episodes.n_shot`.

    Returns:
        A batch of uint8 images, channels first in shape but channels last in memory.

    >>> from fewshot.episodes import EpisodeForm, draw_episodes
    >>> images = np.zeros((70, 32, 32, 3), np.uint8)  # classes of 20, 30 and 20 images
    >>> form = EpisodeForm(n_way=2, n_shot=1, n_query=2)
    >>> episodes = draw_episodes(0, "train", np.arange(4), form, class_sizes=np.array([20, 30, 20]))
    >>> batch = gather_batch(images, np.array([0, 20, 50]), episodes, n_shot=1)
    >>> batch.support_images.shape, batch.query_labels[0].tolist()
    (torch.Size([4, 2, 3, 32, 32]), [0, 0, 1, 1])
    """
    support_rows, query_rows = episodes.rows(class_starts, n_shot)

    def pick(rows: np.ndarray) -> Tensor:
        picked = torch.from_numpy(images[rows.reshape(-1)])
        return picked.reshape(*rows.shape, *picked.shape[1:]).permute(0, 1, 4, 2, 3)

    def labels(per_class: int) -> Tensor:
        return torch.from_numpy(class_labels(episodes.n_way, per_class)).expand(len(episodes), -1)

    return EpisodeBatch(
        pick(support_rows),
        labels(n_shot),
        pick(query_rows),
        labels(episodes.n_query),
        torch.from_numpy(episodes.ids),
        episodes.n_way,
    )
