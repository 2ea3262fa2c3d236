"""Frozen episodes as a text file for any language: JSON Lines with a header, then one line per episode.

Header (first line):
    format, version     "fewshot-episodes", 1
    dataset, split      names
    content_hash        sha256 of the data set's classes and pixels
    n_way, n_shot, n_query, episodes
    class_names, class_sizes    of the split; "rows" number its images class by class in this order
    episodes_hash       sha256 of classes and images, as in the evaluation files for these shots
    sha256              of all bytes after the first line

Each subsequent line is an episode:
    id                  the index it was drawn with
    classes             class numbers; the j-th class has label j in this episode
    support, query      {"labels": [...], "rows": [...], "sources": [...]}, class by class; a source identifies the
                        image in the files the data set was built from

The first k support images of each class are the support of the same episode at k shots.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fewshot.datasets.store import SplitStore
from fewshot.episodes.draw import EpisodeIndices, class_labels
from fewshot.episodes.frozen import episodes_hash
from fewshot.errors import DataError, ParamsError
from fewshot.experiments.params import PositiveInt
from fewshot.files import write_atomic
from fewshot.settings import Settings, parse_as

FORMAT = "fewshot-episodes"
VERSION = 1

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Number = Annotated[int, Field(ge=0, lt=2**31)]


class Header(Settings):
    """The first line of a file."""

    format: Literal["fewshot-episodes"]
    version: Literal[1]
    dataset: str
    split: str
    content_hash: Sha256
    n_way: Annotated[int, Field(ge=2, le=1000)]
    n_shot: PositiveInt
    n_query: PositiveInt
    episodes: PositiveInt
    class_names: tuple[str, ...]
    class_sizes: tuple[PositiveInt, ...]
    episodes_hash: Sha256
    sha256: Sha256


class Images(Settings):
    """Support or query set of an episode; three lists of equal length."""

    labels: tuple[Number, ...]
    rows: tuple[Number, ...]
    sources: tuple[str, ...]


class Episode(Settings):
    """Any subsequent line of a file."""

    id: Annotated[int, Field(ge=0, lt=2**63)]
    classes: tuple[Number, ...]
    support: Images
    query: Images


@dataclass(frozen=True)
class ListedEpisodes:
    """The content of a file."""

    header: Header
    episodes: EpisodeIndices


def write_episode_list(
    path: Path, episodes: EpisodeIndices, split: SplitStore, *, dataset: str, content_hash: str
) -> None:
    """Write episodes of a split; equal episodes give byte-identical files.

    Args:
        path: of the file.
        episodes: drawn from the split.
        split: with class names, class sizes and the sources of its images.
        dataset: name of the data set.
        content_hash: of the data set's store.

    Raises:
        DataError: if the file cannot be written.
    """
    body = "".join(line + "\n" for line in _episode_lines(episodes, split)).encode()
    header = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": dataset,
        "split": split.name,
        "content_hash": content_hash,
        "n_way": episodes.classes.shape[1],
        "n_shot": episodes.n_shot,
        "n_query": episodes.n_query,
        "episodes": len(episodes.ids),
        "class_names": list(split.class_names),
        "class_sizes": split.class_sizes.tolist(),
        "episodes_hash": episodes_hash(episodes),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _line(header).encode() + b"\n" + body)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another file") from None


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _episode_lines(episodes: EpisodeIndices, split: SplitStore) -> Iterator[str]:
    support_rows, query_rows = episodes.rows(split.class_starts, episodes.n_shot)
    n_way = episodes.classes.shape[1]

    def images(rows: np.ndarray, per_class: int) -> dict[str, Any]:
        numbers = rows.tolist()
        sources = [split.source_ids[row] for row in numbers]
        return {"labels": class_labels(n_way, per_class).tolist(), "rows": numbers, "sources": sources}

    for t, number in enumerate(episodes.ids.tolist()):
        yield _line(
            {
                "id": number,
                "classes": episodes.classes[t].tolist(),
                "support": images(support_rows[t], episodes.n_shot),
                "query": images(query_rows[t], episodes.n_query),
            }
        )


def read_episode_list(path: Path) -> ListedEpisodes:
    """Read a file of episodes and check that it is complete and consistent.

    Raises:
        DataError: if it is missing, damaged or inconsistent; the message names the line.
    """
    try:
        first, _, body = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    header = _typed(Header, first, f"{path}, line 1")
    if hashlib.sha256(body).hexdigest() != header.sha256:
        raise DataError(f"{path}: damaged or changed: the sha256 of its episodes differs from line 1; export it again")
    lines = body.splitlines()
    if len(lines) != header.episodes or len(header.class_names) != len(header.class_sizes):
        raise DataError(f"{path}: {len(lines)} episodes, but line 1 says {header.episodes}; export it again")
    listed = [_typed(Episode, line, f"{path}, line {i}") for i, line in enumerate(lines, start=2)]
    images = np.stack([_images(episode, header, f"{path}, line {i}") for i, episode in enumerate(listed, start=2)])
    classes = np.array([episode.classes for episode in listed], np.int32)
    ids = np.array([episode.id for episode in listed], np.int64)
    episodes = EpisodeIndices(classes, images, header.n_query, ids)
    if episodes_hash(episodes) != header.episodes_hash:
        raise DataError(f"{path}: the episodes differ from those line 1 describes (episodes_hash); export it again")
    return ListedEpisodes(header, episodes)


def _typed(model: type[Any], line: bytes, where: str) -> Any:
    try:
        return parse_as(model, json.loads(line), where="")
    except (ValueError, RecursionError, ParamsError) as error:
        raise DataError(f"{where}: not a line of an episode list: {error}") from None


def _images(episode: Episode, header: Header, where: str) -> np.ndarray:
    """Return the image numbers within each class, (M, n_query + n_shot) int32, queries first.

    Raises:
        DataError: unless the rows are distinct images of the episode's classes, class by class.
    """
    sizes = np.array(header.class_sizes)
    classes = np.array(episode.classes)
    if len(classes) != header.n_way or len(set(episode.classes)) != header.n_way or classes.max() >= len(sizes):
        raise DataError(f"{where}: classes {episode.classes} are not {header.n_way} of {len(sizes)}")
    starts = (np.cumsum(sizes) - sizes)[classes][:, None]
    found = []
    for role, part, per_class in (
        ("query", episode.query, header.n_query),
        ("support", episode.support, header.n_shot),
    ):
        expected = class_labels(header.n_way, per_class).tolist()
        if list(part.labels) != expected or not len(part.rows) == len(part.sources) == len(expected):
            raise DataError(f"{where}: the {role} must list {per_class} images of each class, class by class")
        found.append(np.array(part.rows).reshape(header.n_way, per_class) - starts)
    images = np.concatenate(found, axis=1)
    if (images < 0).any() or (images >= sizes[classes][:, None]).any():
        raise DataError(f"{where}: a row is not an image of its class")
    if any(len(set(of_class)) < len(of_class) for of_class in images.tolist()):
        raise DataError(f"{where}: an image appears twice in the episode")
    return images.astype(np.int32)


def check_episode_list(listed: ListedEpisodes, split: SplitStore, content_hash: str) -> None:
    """Check that episodes were drawn from this split: same classes, same pixels.

    Raises:
        DataError: if they were not.
    """
    header = listed.header
    if header.split != split.name or header.class_names != split.class_names:
        raise DataError(
            f"the episodes are of split {header.split!r} with {len(header.class_names)} classes, not of the prepared "
            f"split {split.name!r} with {len(split.class_names)}; prepare the data set they were drawn from"
        )
    if header.content_hash != content_hash or header.class_sizes != tuple(split.class_sizes.tolist()):
        raise DataError(
            f"the episodes were drawn from different images (content {header.content_hash[:12]}, prepared "
            f"{content_hash[:12]}); their rows would refer to the wrong images"
        )
