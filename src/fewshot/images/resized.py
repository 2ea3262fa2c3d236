"""Images of a split at the size of a backbone's input, each resized at most once."""

from typing import Any

import numpy as np

from fewshot.images.preprocess import resize


def at_size(images: Any, size: int) -> Any:
    """Return images (N, h, w, 3) uint8 as (N, size, size, 3): themselves if they have that size.

    Args:
        images: an array, or anything that returns copies of rows.
        size: side, pixels.
    """
    return images if images.shape[1:3] == (size, size) else ResizedImages(images, size)


class ResizedImages:
    """Resizes images (PIL, bicubic) when they are first read, and keeps them.

    Args:
        images: (N, h, w, 3) uint8, an array or anything that returns copies of rows.
        size: side of the returned images, pixels.

    Attributes:
        shape: (N, size, size, 3).
    """

    def __init__(self, images: Any, size: int) -> None:
        self._stored = images
        self.shape = (len(images), size, size, 3)
        self._resized = np.empty(self.shape, np.uint8)  # takes memory as it is filled
        self._known = np.zeros(len(images), bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return a copy of the rows given by a slice or an integer array."""
        wanted = np.arange(len(self))[rows]
        missing = np.unique(wanted[~self._known[wanted]])
        if len(missing):
            self._resized[missing] = resize(self._stored[missing], self.shape[1])
            self._known[missing] = True
        return self._resized[wanted]
