"""What an accelerator needs from the host for an outer step: one table of images, drawn a step ahead.

The split stays on the device if it fits; otherwise the images of a step are copied with its table.

Shapes: T episodes of this process, S support images, Q query images in all, N images of a step, C x H x W.
"""

import math
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from fewshot.datasets.store import SplitStore
from fewshot.episodes.batch import EpisodeBatch
from fewshot.episodes.draw import EpisodeIndices, class_labels
from fewshot.episodes.minibatch import ImageBatch
from fewshot.evaluation.scoring import LARGEST_SHARE, free_memory
from fewshot.images.augment_draws import TABLE_COLUMNS
from fewshot.images.preprocess import Preprocess

BatchType = TypeVar("BatchType", EpisodeBatch, ImageBatch)


class DeviceInputs(Generic[BatchType]):
    """Preprocessed images of one outer step after the other, on an accelerator.

    All tensors that a step reads stay at the same place, so that a recorded step can be replayed.

    Args:
        split: the training classes, their images of the size that the backbone needs.
        preprocess: of the training images.
        device: where to compute.
        n_images: N.
    """

    def __init__(self, split: SplitStore, preprocess: Preprocess, device: torch.device, n_images: int) -> None:
        self.split, self.preprocess, self.device, self.n_images = split, preprocess, device, n_images
        free = free_memory(device)
        self.resident = free is None or math.prod(split.images.shape) <= LARGEST_SHARE * free
        shape = (n_images, *split.images.shape[1:])
        self.stored = (
            _copied(split.images[:], device) if self.resident else torch.empty(shape, dtype=torch.uint8).to(device)
        )
        self.table = torch.zeros(n_images, TABLE_COLUMNS, dtype=torch.int32).to(device)
        # Two of each on the host: while one is copied, the next is filled.
        self._tables = [self._on_host((n_images, TABLE_COLUMNS), torch.int32) for _ in range(2)]
        self._gathered = [] if self.resident else [self._on_host(shape, torch.uint8) for _ in range(2)]
        self._drawn: list[int | None] = [None, None]

    def is_drawn(self, step: int) -> bool:
        """Return whether a step was drawn, and the one after the next not yet."""
        return self._drawn[step % 2] == step

    def copy(self, step: int) -> None:
        """Queue the copies of a drawn step to the device."""
        place = step % 2
        self.table.copy_(self._tables[place], non_blocking=True)
        if not self.resident:
            self.stored.copy_(self._gathered[place], non_blocking=True)

    def batch(self, step: int) -> BatchType:
        """Return the images of the copied step, augmented and normalised."""
        raise NotImplementedError

    def _prepare(self, step: int, rows: np.ndarray) -> np.ndarray:
        """Gather the images of a step if the split is not on the device; return the row of each on the device, (N,)."""
        self._drawn[step % 2] = step
        if self.resident:
            return rows
        self._gathered[step % 2].numpy()[:] = self.split.images[rows]
        return np.arange(self.n_images)

    def _on_host(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return host memory from which copies do not make the host wait."""
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")


class EpisodeInputs(DeviceInputs[EpisodeBatch]):
    """The episodes of one outer step after the other.

    Args:
        split: as for `DeviceInputs`.
        preprocess: likewise.
        device: likewise.
        episodes: T.
        n_way: classes per episode.
        n_shot: support images per class.
        n_query: query images per class.
    """

    def __init__(
        self,
        split: SplitStore,
        preprocess: Preprocess,
        device: torch.device,
        *,
        episodes: int,
        n_way: int,
        n_shot: int,
        n_query: int,
    ) -> None:
        super().__init__(split, preprocess, device, episodes * n_way * (n_shot + n_query))
        self.episodes, self.n_way, self.n_shot = episodes, n_way, n_shot
        self.n_support = episodes * n_way * n_shot
        self.labels = [
            torch.from_numpy(class_labels(n_way, per_class)).to(device).expand(episodes, -1)
            for per_class in (n_shot, n_query)
        ]
        self._ids = [torch.zeros(episodes, dtype=torch.int64) for _ in range(2)]

    def draw(self, step: int, episodes: EpisodeIndices) -> None:
        """Draw the episodes of a step on the host, without touching the device."""
        support, query = episodes.rows(self.split.class_starts, self.n_shot)
        rows = self._prepare(step, np.concatenate([support.reshape(-1), query.reshape(-1)]))
        parts = (rows[: self.n_support].reshape(support.shape), rows[self.n_support :].reshape(query.shape))
        tables = [
            self.preprocess.table(role, episodes.ids, part)
            for role, part in zip(("support", "query"), parts, strict=True)
        ]
        np.concatenate(tables, out=self._tables[step % 2].numpy())
        self._ids[step % 2] = torch.from_numpy(episodes.ids)

    def batch(self, step: int) -> EpisodeBatch:
        """Return the episodes of the copied step, augmented and normalised."""
        images = self.preprocess.augmented(self.stored, self.table)
        support, query = (part.unflatten(0, (self.episodes, -1)) for part in images.tensor_split([self.n_support]))
        return EpisodeBatch(support, self.labels[0], query, self.labels[1], self._ids[step % 2], self.n_way)


class MinibatchInputs(DeviceInputs[ImageBatch]):
    """The labelled images of one outer step after the other; arguments as for `DeviceInputs`."""

    def __init__(self, split: SplitStore, preprocess: Preprocess, device: torch.device, n_images: int) -> None:
        super().__init__(split, preprocess, device, n_images)
        self.labels = torch.zeros(n_images, dtype=torch.int64).to(device)
        self._labels = [self._on_host((n_images,), torch.int64) for _ in range(2)]
        self._ids = [torch.zeros(n_images, dtype=torch.int64) for _ in range(2)]

    def draw(self, step: int, rows: np.ndarray, positions: np.ndarray) -> None:
        """Take the images of a step, without touching the device.

        Args:
            step: the global outer step.
            rows: (N,) rows of the split.
            positions: (N,) their positions in the sequence of passes, on which augmentation depends.
        """
        place = step % 2
        table = self.preprocess.table("minibatch", positions, self._prepare(step, rows)[:, None])
        self._tables[place].numpy()[:] = table
        self._labels[place].numpy()[:] = self.split.labels[rows]
        self._ids[place] = torch.from_numpy(positions)

    def copy(self, step: int) -> None:
        """Queue the copies of a drawn step to the device."""
        super().copy(step)
        self.labels.copy_(self._labels[step % 2], non_blocking=True)

    def batch(self, step: int) -> ImageBatch:
        """Return the images of the copied step, augmented and normalised."""
        images = self.preprocess.augmented(self.stored, self.table)
        return ImageBatch(images, self.labels, self._ids[step % 2])


def _copied(images: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(images)).to(device)
