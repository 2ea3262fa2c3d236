"""Frozen episode lists: written once, used to evaluate every learner, identified by a hash."""

import hashlib
from pathlib import Path

import numpy as np

from fewshot.episodes.draw import EpisodeIndices
from fewshot.errors import DataError, reason_of
from fewshot.files import read_npz, write_npz

ADVICE = "delete its folder and run 'fewshot prepare' again"


def write_episodes(path: Path, episodes: EpisodeIndices) -> None:
    """Write a frozen list (format: docs/protocol.md) as an uncompressed npz without timestamps."""
    arrays: dict[str, np.ndarray | np.generic] = {
        "classes": episodes.classes,
        "images": episodes.images,
        "n_query": np.int64(episodes.n_query),
        "ids": episodes.ids,
    }
    write_npz(path, arrays)


def read_episodes(path: Path, *, n_shot: int, episodes: int, recorded_hash: str | None = None) -> EpisodeIndices:
    """Read the first `episodes` of a frozen list, with `n_shot` support images per class.

    Args:
        path: of the file.
        n_shot: support images per class; the file may have more.
        episodes: number of episodes; the file may have more.
        recorded_hash: the `episodes_hash` of the whole list, if known.

    Raises:
        DataError: if the file is missing or damaged, has too few episodes or shots, or is another list than recorded.
    """
    arrays = read_npz(path, advice=ADVICE)
    try:
        found = EpisodeIndices(arrays["classes"], arrays["images"], int(arrays["n_query"]), arrays["ids"])
        _check_form(found)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not an episode list ({reason_of(error)}); {ADVICE}") from None
    if recorded_hash not in (None, episodes_hash(found)):
        raise DataError(f"{path}: not the list that was drawn (its episodes_hash is not {recorded_hash}); {ADVICE}")
    if len(found) < episodes or found.n_shot < n_shot:
        raise DataError(
            f"{path}: contains {len(found)} episodes of {found.n_shot} shots; {episodes} of {n_shot} are needed"
        )
    return found.take(slice(episodes)).at(n_shot)


def _check_form(episodes: EpisodeIndices) -> None:
    """Raise `ValueError` unless the arrays have the dtypes and shapes of an episode list."""
    arrays = (episodes.classes, episodes.images, episodes.ids)
    if any(array.dtype.kind != "i" for array in arrays):
        raise ValueError(f"expected integers, not {', '.join(str(array.dtype) for array in arrays)}")
    n_episodes, n_way, per_class = episodes.images.shape
    if episodes.classes.shape != (n_episodes, n_way) or episodes.ids.shape != (n_episodes,):
        raise ValueError(f"shapes {', '.join(str(array.shape) for array in arrays)} do not match")
    if not 0 < episodes.n_query < per_class:
        raise ValueError(f"{episodes.n_query} queries of {per_class} images per class")
    if n_episodes and min(episodes.classes.min(), episodes.images.min()) < 0:
        raise ValueError("negative class or image numbers")


def episodes_hash(episodes: EpisodeIndices) -> str:
    """Return the sha256 of a list's classes and images (int32, little-endian, in C order)."""
    arrays = (episodes.classes, episodes.images)
    return hashlib.sha256(b"".join(np.ascontiguousarray(a, dtype="<i4").tobytes() for a in arrays)).hexdigest()
