"""Draw episodes: the classes and images of a task, as a pure function of (seed, split, index).

Episodes do not depend on the number of workers, the device, the order of calls, resuming or the platform.

Shapes: T episodes, M ways.
"""

from dataclasses import dataclass, replace
from numbers import Integral

import numba
import numpy as np

from fewshot.episodes.form import EpisodeForm
from fewshot.episodes.philox import philox_block, stream_key
from fewshot.errors import DataError, quoted


@dataclass(frozen=True)
class EpisodeIndices:
    """The classes and images of T episodes, as frozen and hashed.

    Attributes:
        classes: (T, M) int32, class numbers within the split; the j-th has label j.
        images: (T, M, n_query + n_shot) int32, image numbers within the class: first the queries, then the support, so
            that a smaller number of shots uses a prefix of the same support and the same queries.
        n_query: queries per class.
        ids: (T,) int64, the index of each episode.
    """

    classes: np.ndarray
    images: np.ndarray
    n_query: int
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_way(self) -> int:
        """Classes per episode."""
        return self.classes.shape[1]

    @property
    def n_shot(self) -> int:
        """Support images drawn per class; fewer may be used."""
        return self.images.shape[2] - self.n_query

    def at(self, n_shot: int) -> "EpisodeIndices":
        """Return the same episodes with fewer support images per class."""
        return replace(self, images=self.images[:, :, : self.n_query + n_shot])

    def take(self, part: slice) -> "EpisodeIndices":
        """Return a slice of the episodes."""
        return replace(self, classes=self.classes[part], images=self.images[part], ids=self.ids[part])

    def rows(self, class_starts: np.ndarray, n_shot: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of the split's image array, ordered by class: support (T, M * n_shot), query (T, M * n_query).

        Args:
            class_starts: (number of classes,) first row of each class.
            n_shot: support images per class to use, at most `self.n_shot`.
        """
        rows = class_starts[self.classes][:, :, None] + self.images
        query, support = rows[:, :, : self.n_query], rows[:, :, self.n_query : self.n_query + n_shot]
        return support.reshape(len(rows), -1), query.reshape(len(rows), -1)


def class_labels(n_way: int, per_class: int) -> np.ndarray:
    """Return the labels of images ordered class by class, (n_way * per_class,) int64."""
    return np.repeat(np.arange(n_way, dtype=np.int64), per_class)


def draw_episodes(
    seed: int, split: str, indices: np.ndarray, form: EpisodeForm, class_sizes: np.ndarray
) -> EpisodeIndices:
    """Draw the episodes with the given indices: first classes, then images of each class, both without replacement.

    Args:
        seed: seed of the experiment (training) or of the protocol (test lists).
        split: name of the split; each split has its own random stream.
        indices: (T,) non-negative; in training `step * meta_batch + i`.
        form: ways, shots and queries.
        class_sizes: (number of classes,) images in each class of the split.

    Raises:
        DataError: if the split has fewer classes than `n_way`, or a class fewer images than `n_shot + n_query`; if
            seed, indices or form are not integers or out of range.

    >>> episodes = draw_episodes(
    ...     0, "test", np.arange(3), EpisodeForm(n_way=2, n_shot=1, n_query=2), class_sizes=np.array([20, 30, 20])
    ... )
    >>> episodes.classes.tolist()
    [[1, 0], [2, 1], [2, 0]]
    >>> len(episodes), episodes.images.shape
    (3, (3, 2, 3))
    """
    class_sizes = np.asarray(class_sizes)
    check_episode_fits(split, form, class_sizes)
    if not isinstance(seed, Integral):
        raise DataError(f"seed is {quoted(seed)}; allowed: an integer")
    ids = np.asarray(indices)
    if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0)):
        raise DataError(f"indices are {quoted(indices)}; allowed: a list of integers, 0 or more")
    ids = ids.astype(np.int64)
    classes = np.empty((len(ids), form.n_way), np.int32)
    images = np.empty((len(ids), form.n_way, form.images_per_class), np.int32)
    key = stream_key(seed, split, "episodes")
    _draw(key[0], key[1], ids, class_sizes.astype(np.int64), classes, images)
    return EpisodeIndices(classes, images, form.n_query, ids)


def check_episode_fits(split: str, form: EpisodeForm, class_sizes: np.ndarray) -> None:
    """Check that a split has enough classes and images for episodes of a form.

    Args:
        split: name of the split.
        form: ways, shots and queries.
        class_sizes: (number of classes,) images in each class of the split.

    Raises:
        DataError: if it has too few; the message names the settings to lower.
    """
    for name, count in vars(form).items():
        if not isinstance(count, Integral) or count < 1:
            raise DataError(f"{name} is {quoted(count)}; allowed: an integer, 1 or more")
    if form.n_way > len(class_sizes):
        raise DataError(
            f"{form.n_way} ways requested, but split {quoted(split)} has {len(class_sizes)} classes; lower n_way"
        )
    smallest = int(class_sizes.min())
    if form.images_per_class > smallest:
        raise DataError(
            f"{form.n_shot} shots + {form.n_query} queries per class requested, but the smallest class of split "
            f"{quoted(split)} has {smallest} images; lower n_shot or n_query"
        )


@numba.njit(cache=True)
def below(word: np.uint32, n: np.int64) -> np.int64:
    """Map 32 random bits to 0 .. n-1 (with a bias below n / 2^32)."""
    return np.int64((np.uint64(word) * np.uint64(n)) >> np.uint64(32))


@numba.njit(cache=True)
def _draw(key0, key1, ids, class_sizes, classes, images) -> None:  # type: ignore[no-untyped-def]
    """Fill `classes` and `images` by partial Fisher-Yates shuffles.

    The i-th choice of shuffle s (0: classes, 1..M: images of a way) in episode e uses word i % 4 of
    Philox(key, (s 2^32 + i // 4, e)), so adding ways, shots or episodes extends a list without changing its contents.
    """
    pool = np.empty(max(len(class_sizes), class_sizes.max()), np.int64)
    block = np.zeros(4, np.uint32)
    n_way, per_class = images.shape[1], images.shape[2]
    for t in range(len(ids)):
        for shuffle in range(n_way + 1):
            count, size = (
                (n_way, len(class_sizes)) if shuffle == 0 else (per_class, class_sizes[classes[t, shuffle - 1]])
            )
            for i in range(size):
                pool[i] = i
            for i in range(count):
                if i % 4 == 0:
                    low = (np.uint64(shuffle) << np.uint64(32)) + np.uint64(i // 4)
                    block = philox_block(key0, key1, low, np.uint64(ids[t]))
                j = i + below(block[i % 4], size - i)  # type: ignore[arg-type]
                pool[i], pool[j] = pool[j], pool[i]
                if shuffle == 0:
                    classes[t, i] = pool[i]
                else:
                    images[t, shuffle - 1, i] = pool[i]
