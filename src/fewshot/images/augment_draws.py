"""Random draws for augmentation: a pure function of (seed, role, episode id, position of the image in the episode).

They do not depend on the composition of a batch, the device, the number of workers or the order of calls.

Shapes: T episodes, n images per episode, N = T * n images.
"""

from dataclasses import dataclass

import numba
import numpy as np

from fewshot.episodes.philox import philox_block, stream_key

# The three operations of the colour jitter; each row of JITTER_ORDERS is a sequence in which to apply them.
BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2
JITTER_ORDERS = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)], np.int64)

TABLE_COLUMNS = 8


@dataclass(frozen=True)
class Draws:
    """Draws for N images.

    Attributes:
        top: (N,) int64, first row of the crop in the padded image, 0 .. 2 * crop_padding.
        left: (N,) int64, first column, likewise.
        factors: (N, 3) float32, brightness, contrast and saturation, each in [1 - jitter, 1 + jitter].
        order: (N,) int64, row of `JITTER_ORDERS`.
        flip: (N,) bool, whether to flip horizontally.
    """

    top: np.ndarray
    left: np.ndarray
    factors: np.ndarray
    order: np.ndarray
    flip: np.ndarray

    def __len__(self) -> int:
        return len(self.top)

    def table(self, rows: np.ndarray, crop_padding: int) -> np.ndarray:
        """Return everything that determines the augmented images, as accelerators take it, (N, TABLE_COLUMNS) int32.

        Columns: row of the image, first row and first column of the crop in the image (negative: in the border),
        whether to flip, row of `JITTER_ORDERS`, and the bits of the three factors (float32).

        Args:
            rows: (N,) number of each image in the split's array.
            crop_padding: width of the black border, pixels.
        """
        table = np.empty((len(self), TABLE_COLUMNS), np.int32)
        table[:, 0], table[:, 1], table[:, 2] = rows, self.top - crop_padding, self.left - crop_padding
        table[:, 3], table[:, 4], table[:, 5:] = self.flip, self.order, self.factors.view(np.int32)
        return table


def no_augmentation(n: int) -> Draws:
    """Return draws that leave N images as they are if they are cropped without padding and not jittered."""
    zeros = np.zeros(n, np.int64)
    return Draws(zeros, zeros, np.ones((n, 3), np.float32), zeros, np.zeros(n, bool))


def draw_augmentations(
    seed: int, role: str, episode_ids: np.ndarray, n_images: int, *, crop_padding: int, jitter: float, flip: bool
) -> Draws:
    """Draw the augmentation of images 0 .. n_images - 1 of each episode.

    Args:
        seed: seed of the experiment.
        role: "support", "query", "minibatch" or "tested support"; these have separate streams, so that the number of
            shots does not affect the draws for the queries.
        episode_ids: (T,) int64.
        n_images: n.
        crop_padding: width of the black border added on each side before the crop, pixels.
        jitter: half-width of the factors' range, 0 <= jitter <= 1.
        flip: flip with probability 1/2; if false, never.

    Returns:
        Draws for N = T * n images, episode by episode.
    """
    n = len(episode_ids) * n_images
    draws = Draws(
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty((n, 3), np.float32),
        np.empty(n, np.int64),
        np.empty(n, bool),
    )
    key = stream_key(seed, "augment", role)
    ids = np.ascontiguousarray(episode_ids, np.int64)
    _fill(
        key[0],
        key[1],
        ids,
        n_images,
        crop_padding,
        jitter,
        flip,
        draws.top,
        draws.left,
        draws.factors,
        draws.order,
        draws.flip,
    )
    return draws


@numba.njit(cache=True)
def _fill(key0, key1, ids, n_images, crop_padding, jitter, flip, top, left, factors, order, flips) -> None:  # type: ignore[no-untyped-def]
    """Fill the arrays; image i of episode e uses the blocks Philox(key, (2 i, e)) and Philox(key, (2 i + 1, e))."""
    unit = 1.0 / 4294967296.0
    for row in range(len(ids) * n_images):
        episode, slot = np.uint64(ids[row // n_images]), np.uint64(2 * (row % n_images))
        place = philox_block(key0, key1, slot, episode)
        colour = philox_block(key0, key1, slot + np.uint64(1), episode)
        top[row] = int(place[0] * unit * (2 * crop_padding + 1))
        left[row] = int(place[1] * unit * (2 * crop_padding + 1))
        flips[row] = flip and place[2] < np.uint32(2147483648)
        order[row] = int(place[3] * unit * 6)
        for operation in range(3):
            factors[row, operation] = 1.0 - jitter + 2.0 * jitter * colour[operation] * unit
