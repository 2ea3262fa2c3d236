"""Minibatches of labelled images, for training without episodes: draws, and the images as tensors.

The training images are read in an endless sequence of passes; each pass is a permutation that is a pure function of
(seed, split, number of the pass). Position p of the sequence is image p % N of pass p // N, so a minibatch depends on
nothing but its positions: not on workers, device, resuming or the size of earlier minibatches.

Shapes: B images, C x H x W; N images in the split.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numba
import numpy as np
import torch
from torch import Tensor

from fewshot.episodes.batch import Batch, Rows
from fewshot.episodes.draw import below
from fewshot.episodes.philox import philox_block, stream_key


@final
@dataclass(frozen=True)
class ImageBatch(Batch):
    """A minibatch of labelled images.

    Attributes:
        images: (B, C, H, W); uint8 as drawn, float32 after `fewshot.images.preprocess.Preprocess`.
        labels: (B,) int64, class numbers within the split.
        ids: (B,) int64, positions in the sequence of passes; augmentation depends on them. Always on the host.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]


def draw_images(seed: int, split: str, positions: np.ndarray, n_images: int) -> np.ndarray:
    """Return the rows of the split's images at positions of the sequence of passes, (B,) int64.

    Args:
        seed: seed of the experiment.
        split: name of the split; each split has its own random stream.
        positions: (B,) non-negative; in training `step * batch_size + i`.
        n_images: N, images of the split.

    >>> rows = draw_images(0, "train", np.arange(8), n_images=4)
    >>> rows.tolist()
    [2, 3, 1, 0, 0, 1, 2, 3]
    """
    passes, places = np.divmod(positions, n_images)
    rows = np.empty(len(positions), np.int64)
    for number in np.unique(passes):
        own = passes == number
        rows[own] = permutation(seed, split, int(number), n_images)[places[own]]
    return rows


@lru_cache(maxsize=2)  # a minibatch may contain the end of one pass and the start of the next
def permutation(seed: int, split: str, number: int, n_images: int) -> np.ndarray:
    """Return the order of the images in one pass, (N,) int64; do not change it."""
    order = np.arange(n_images)
    _shuffle(*stream_key(seed, "minibatches", split), number, order)
    return order


@numba.njit(cache=True)
def _shuffle(key0, key1, number, order) -> None:  # type: ignore[no-untyped-def]
    """Shuffle `order` (Fisher-Yates); its i-th choice uses word i % 4 of Philox(key, (i // 4, number))."""
    block = np.zeros(4, np.uint32)
    for i in range(len(order)):
        if i % 4 == 0:
            block = philox_block(key0, key1, np.uint64(i // 4), np.uint64(number))
        j = i + below(block[i % 4], len(order) - i)  # type: ignore[arg-type]
        order[i], order[j] = order[j], order[i]


def gather_images(images: Rows, labels: np.ndarray, rows: np.ndarray, positions: np.ndarray) -> ImageBatch:
    """Copy images from a split's array.

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) class of each image.
        rows: (B,) which to copy.
        positions: (B,) their positions in the sequence of passes.

    Returns:
        A batch of uint8 images, channels first in shape but channels last in memory.
    """
    picked = torch.from_numpy(images[rows]).permute(0, 3, 1, 2)
    return ImageBatch(picked, torch.from_numpy(labels[rows]), torch.from_numpy(positions))
