"""Digests of the pixels of published classes: they identify a class whatever the files call it.

A digest does not depend on the order of the images. The lists (`splits/*.digests.yaml`) were made with `digests_of`
from stores of the complete data sets.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fewshot.datasets.class_lists import CLASS_LISTS_DIR, read_yaml
from fewshot.datasets.split_files import SplitPlan, image_digest
from fewshot.datasets.store import Store
from fewshot.errors import DataError

log = logging.getLogger(__name__)

DIGEST_BYTES = 4  # enough to tell a few thousand classes apart; damage is found by file checksums
HEADER = (
    "# Digests of the pixels of each class (see class_digests.py); of an alphabet, those of character 01, 02, ...\n"
)
ALL_PUBLISHED = "the pixels of all {count} classes are the published ones"
NONE_PUBLISHED = (
    "the pixels of no class are the published ones, as after resizing or recompressing; only the names of the classes "
    "and their numbers of images were checked"
)


def read_digests(name: str) -> dict[str, str]:
    """Return class name -> digest of a list in `splits`; nested keys are joined by '/'.

    A value is one digest, or the digests of the characters 01, 02, ... of an alphabet, separated by spaces.
    """
    digests: dict[str, str] = {}
    for key, value in read_yaml(CLASS_LISTS_DIR / f"{name}.digests.yaml").items():
        parts = value.split()
        digests |= {key: value} if len(parts) == 1 else {f"{key}/character{i:02d}": d for i, d in enumerate(parts, 1)}
    return digests


def digests_of(store: Store) -> dict[str, str]:
    """Return class name -> digest of the classes of a store."""
    return {
        name: class_digest(split.images[start : start + size])
        for split in store.splits.values()
        for name, start, size in zip(split.class_names, split.class_starts, split.class_sizes, strict=True)
    }


def class_digest(images: Iterable[np.ndarray]) -> str:
    """Return the digest of a class, in hexadecimal; `images` are uint8 arrays in any order."""
    return _join([image_digest(image) for image in images])


def _join(digests: Sequence[bytes]) -> str:
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=DIGEST_BYTES).hexdigest()


def check_pixels_of(
    plans: Iterable[SplitPlan], published: Mapping[str, str], findings: dict[str, str]
) -> Iterator[SplitPlan]:
    """Yield the splits; when their images have been read, compare each class with the published pixels.

    Args:
        plans: the splits.
        published: class name -> digest.
        findings: receives the outcome as entry `pixels`.

    Raises:
        DataError: if a class has the images of another one, or only some classes have the published pixels.
    """
    found: dict[str, str] = {}
    for plan in plans:
        yield replace(plan, images=_collect_digests(plan, found))
    findings["pixels"] = compare_digests(found, published)
    if findings["pixels"] == NONE_PUBLISHED:
        log.warning(NONE_PUBLISHED)


def _collect_digests(plan: SplitPlan, found: dict[str, str]) -> Iterator[tuple[int, np.ndarray, str]]:
    digests: list[list[bytes]] = [[] for _ in plan.class_names]
    for label, image, source in plan.images:
        digests[label].append(image_digest(image))
        yield label, image, source
    found.update(zip(plan.class_names, map(_join, digests), strict=True))


def compare_digests(found: Mapping[str, str], published: Mapping[str, str]) -> str:
    """Compare the digests found, by class name, with the published ones; return the outcome as a sentence.

    Raises:
        DataError: if a class has the images of another one, or only some classes have the published pixels.
    """
    owners = {digest: name for name, digest in published.items()}
    for name, digest in found.items():
        if owners.get(digest, name) != name:
            raise DataError(
                f"class {name!r} has the images of the published class {owners[digest]!r}: the labels or folders are "
                "interchanged; fetch the files again or correct them"
            )
    comparable = [name for name in found if name in published]
    altered = [name for name in comparable if found[name] != published[name]]
    if len(altered) == len(comparable):
        return NONE_PUBLISHED
    if not altered:
        return ALL_PUBLISHED.format(count=len(comparable))
    raise DataError(
        f"the images of class {altered[0]!r} are not the published ones ({len(altered)} such classes), while those of "
        f"{len(comparable) - len(altered)} other classes are: some images were replaced or changed; fetch the files "
        "again, or use them as data set `folder`"
    )


def identify_classes(images: np.ndarray, classes: Sequence[str], published: Mapping[str, str]) -> dict[str, str]:
    """Return the name of the published class with the same images for each class; those without one are left out.

    Args:
        images: (N, H, W, 3) uint8.
        classes: class of each image.
        published: class name -> digest.
    """
    owners = {digest: name for name, digest in published.items()}
    rows = np.asarray(classes)
    digests = {name: class_digest(images[rows == name]) for name in sorted(set(classes))}
    return {name: owners[digest] for name, digest in digests.items() if digest in owners}


def write_digests(store: Store, path: Path) -> None:
    """Write the digests of a store's classes, as in `splits`; those of one alphabet are on one line."""
    lines: dict[str, list[str]] = {}
    for name, digest in sorted(digests_of(store).items()):
        lines.setdefault(name.partition("/")[0], []).append(digest)
    text = "".join(f'"{key}": "{" ".join(digests)}"\n' for key, digests in lines.items())
    path.write_text(HEADER + text, encoding="utf-8")
