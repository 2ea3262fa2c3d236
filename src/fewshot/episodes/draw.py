"""Episodes: which classes and images make a task, as a pure function of (seed, split, index).

Nothing else enters: not the number of workers, the device, the order of calls, a resume or the platform.

Shapes: T episodes, M ways, S support images, Q query images in all, C x H x W.
"""

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numba
import numpy as np
import torch
from torch import Tensor

from fewshot.episodes.form import EpisodeForm
from fewshot.episodes.philox import philox_block, stream_key
from fewshot.errors import DataError
from fewshot.files import write_npz


class Rows(Protocol):
    """Images that can be copied by row number."""

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class EpisodeBatch:
    """A batch of episodes of equal form.

    Attributes:
        support_images: (T, S, C, H, W); uint8 as drawn, float32 after `augment.Preprocess`.
        support_labels: (T, S) int64, 0 .. M-1, rows in any order.
        query_images: (T, Q, C, H, W), as `support_images`.
        query_labels: (T, Q) int64.
        episode_ids: (T,) int64, the index each episode was drawn with; augmentation draws depend on it.
        n_way: M.
    """

    support_images: Tensor
    support_labels: Tensor
    query_images: Tensor
    query_labels: Tensor
    episode_ids: Tensor
    n_way: int

    def __len__(self) -> int:
        return self.support_labels.shape[0]

    def to(self, device: torch.device) -> "EpisodeBatch":
        """Return the batch on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def chunks(self, size: int) -> Iterator["EpisodeBatch"]:
        """Yield the batch in consecutive parts of at most `size` episodes."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self._each(lambda tensor, part=part: tensor[part])  # type: ignore[misc]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "EpisodeBatch":
        """Return the batch with every tensor changed."""
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class EpisodeIndices:
    """Which classes and images make each episode; the form in which episodes are frozen and hashed.

    Attributes:
        classes: (T, M) int32, class ids of the split; the j-th has label j.
        images: (T, M, n_query + n_shot) int32, image numbers within the class: first the queries, then the
            support, so that fewer shots are a prefix of the same support with the same queries.
        n_query: queries a class.
        ids: (T,) int64, the index of each episode.
    """

    classes: np.ndarray
    images: np.ndarray
    n_query: int
    ids: np.ndarray

    @property
    def n_shot(self) -> int:
        """Support images a class that were drawn; any smaller number may be used."""
        return self.images.shape[2] - self.n_query

    def at(self, n_shot: int) -> "EpisodeIndices":
        """Return the same episodes with fewer support images a class."""
        return replace(self, images=self.images[:, :, : self.n_query + n_shot])

    def rows(self, class_starts: np.ndarray, n_shot: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of the split's image array: support (T, M * n_shot), query (T, M * n_query), class by class."""
        rows = class_starts[self.classes][:, :, None] + self.images
        query, support = rows[:, :, : self.n_query], rows[:, :, self.n_query : self.n_query + n_shot]
        return support.reshape(len(rows), -1), query.reshape(len(rows), -1)


def class_labels(n_way: int, per_class: int) -> np.ndarray:
    """Return the labels of images laid out class by class, (n_way * per_class,) int64."""
    return np.repeat(np.arange(n_way, dtype=np.int64), per_class)


def draw_episodes(
    seed: int,
    split: str,
    indices: np.ndarray,
    form: EpisodeForm,
    class_sizes: np.ndarray,
) -> EpisodeIndices:
    """Draw the episodes with the given indices: classes, then images of each class, both without replacement.

    Args:
        seed: of the experiment (training) or of the protocol (test lists).
        split: name of the split; other splits have other streams.
        indices: (T,) non-negative; in training `step * meta_batch + i`.
        form: ways, shots and queries.
        class_sizes: (number of classes,) images in each class of the split.

    Raises:
        DataError: if the split has fewer classes than `n_way`, or a class fewer images than `n_shot + n_query`.
    """
    check_episode_fits(split, form, class_sizes)
    ids = np.asarray(indices, dtype=np.int64)
    classes = np.empty((len(ids), form.n_way), np.int32)
    images = np.empty((len(ids), form.n_way, form.images_per_class), np.int32)
    key = stream_key(seed, split, "episodes")
    _draw(key[0], key[1], ids, class_sizes.astype(np.int64), classes, images)
    return EpisodeIndices(classes, images, form.n_query, ids)


def check_episode_fits(split: str, form: EpisodeForm, class_sizes: np.ndarray) -> None:
    """Raise `DataError` unless the split can give episodes of this form."""
    if form.n_way > len(class_sizes):
        raise DataError(f"{form.n_way} ways asked for, but split {split!r} has {len(class_sizes)} classes; lower n_way")
    smallest = int(class_sizes.min())
    if form.images_per_class > smallest:
        raise DataError(
            f"{form.n_shot} shots + {form.n_query} queries per class asked for, but the smallest class of split "
            f"{split!r} has {smallest} images; lower n_shot or n_query"
        )


@numba.njit(cache=True)
def _below(word: np.uint32, n: np.int64) -> np.int64:
    """Map 32 random bits to 0 .. n-1 (bias below n / 2^32)."""
    return np.int64((np.uint64(word) * np.uint64(n)) >> np.uint64(32))


@numba.njit(cache=True)
def _draw(key0, key1, ids, class_sizes, classes, images) -> None:  # type: ignore[no-untyped-def]
    """Fill `classes` and `images` by partial Fisher-Yates shuffles.

    The i-th choice of shuffle s (0: classes, 1..M: images of a way) in episode e takes word i % 4 of
    Philox(key, (s 2^32 + i // 4, e)), so that more ways, shots or episodes extend a list and change nothing in it.
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
                j = i + _below(block[i % 4], size - i)  # type: ignore[arg-type]
                pool[i], pool[j] = pool[j], pool[i]
                if shuffle == 0:
                    classes[t, i] = pool[i]
                else:
                    images[t, shuffle - 1, i] = pool[i]


def gather_batch(images: Rows, class_starts: np.ndarray, episodes: EpisodeIndices, n_shot: int) -> EpisodeBatch:
    """Copy the images of drawn episodes out of a split's array.

    Args:
        images: (N, H, W, C) uint8, sorted by class; an array, a memory map or anything that copies rows by index.
        class_starts: (number of classes,) first row of each class.
        episodes: T drawn episodes.
        n_shot: support images a class to use, at most `episodes.n_shot`.

    Returns:
        A batch of uint8 images, channels first by strides only (the memory stays channels last).
    """
    support_rows, query_rows = episodes.rows(class_starts, n_shot)
    n_episodes, n_way = episodes.classes.shape

    def pick(rows: np.ndarray) -> Tensor:
        picked = torch.from_numpy(images[rows.reshape(-1)])
        return picked.reshape(*rows.shape, *picked.shape[1:]).permute(0, 1, 4, 2, 3)

    def labels(per_class: int) -> Tensor:
        return torch.from_numpy(class_labels(n_way, per_class)).expand(n_episodes, -1)

    return EpisodeBatch(
        pick(support_rows),
        labels(n_shot),
        pick(query_rows),
        labels(episodes.n_query),
        torch.from_numpy(episodes.ids),
        n_way,
    )


def write_episodes(path: Path, episodes: EpisodeIndices) -> None:
    """Write a frozen list (format: docs/protocol.md) as an uncompressed npz without timestamps."""
    arrays: dict[str, np.ndarray | np.generic] = {
        "classes": episodes.classes,
        "images": episodes.images,
        "n_query": np.int64(episodes.n_query),
        "ids": episodes.ids,
    }
    write_npz(path, arrays)


def read_episodes(path: Path, *, n_shot: int, episodes: int) -> EpisodeIndices:
    """Read the first `episodes` of a frozen list, with `n_shot` support images a class.

    Raises:
        DataError: if the file is missing, damaged or shorter.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = EpisodeIndices(file["classes"], file["images"], int(file["n_query"]), file["ids"])
        _check_form(found)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path}: not a readable episode list ({error}); delete its folder and prepare again") from None
    if len(found.ids) < episodes or found.n_shot < n_shot:
        raise DataError(
            f"{path}: holds {len(found.ids)} episodes of {found.n_shot} shots; {episodes} of {n_shot} are needed"
        )
    return EpisodeIndices(
        found.classes[:episodes],
        found.images[:episodes, :, : found.n_query + n_shot],
        found.n_query,
        found.ids[:episodes],
    )


def _check_form(episodes: EpisodeIndices) -> None:
    """Raise `ValueError` unless the arrays have the types and shapes of a list."""
    arrays = (episodes.classes, episodes.images, episodes.ids)
    if any(array.dtype.kind != "i" for array in arrays):
        raise ValueError(f"integers expected, not {', '.join(str(array.dtype) for array in arrays)}")
    n_episodes, n_way, per_class = episodes.images.shape
    if episodes.classes.shape != (n_episodes, n_way) or episodes.ids.shape != (n_episodes,):
        raise ValueError(f"shapes {', '.join(str(array.shape) for array in arrays)} do not go together")
    if not 0 < episodes.n_query < per_class:
        raise ValueError(f"{episodes.n_query} queries of {per_class} images a class")
    if n_episodes and min(episodes.classes.min(), episodes.images.min()) < 0:
        raise ValueError("negative class or image numbers")


def episodes_hash(episodes: EpisodeIndices) -> str:
    """Return the sha256 of a list's classes and images (int32, little-endian, in C order)."""
    arrays = (episodes.classes, episodes.images)
    return hashlib.sha256(b"".join(np.ascontiguousarray(a, dtype="<i4").tobytes() for a in arrays)).hexdigest()
