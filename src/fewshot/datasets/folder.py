"""`folder`: the user's own images in class folders, or in folders train, validation and test of class folders.

Without split folders, the classes are split by a file that lists them, or at random: classes are ordered by a hash of
the seed and their name, so that adding a class moves few others.
"""

import hashlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from fewshot.datasets import SPLITS
from fewshot.datasets.archives import Limits
from fewshot.datasets.base import FileDataset
from fewshot.datasets.class_lists import ClassLists, read_class_lists
from fewshot.datasets.file_sets import FileSet
from fewshot.datasets.images import crop_square, resize_square
from fewshot.datasets.sources import SPLIT_WORDS, FileSource, image_names, plan_splits
from fewshot.datasets.split_files import SplitPlan
from fewshot.errors import DataError

log = logging.getLogger(__name__)


class Folder(FileDataset):
    """The data set `folder`."""

    name = "folder"
    limits: ClassVar[Limits] = Limits(members=5_000_000, total_bytes=1 << 40)

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.image_size = settings.image_size

    def read(self, files: FileSet) -> Iterator[SplitPlan]:
        """Yield the splits."""
        images = image_names(files)
        folders = class_folders(files, images)
        names = [folder.as_posix() for folder in folders]
        if self.settings.split_file is not None:
            lists = read_class_lists(Path(self.settings.split_file))
            left_out = set(names) - {name for listed in lists.splits.values() for name in listed}
            if left_out:
                log.warning("%d classes are not in the split file: %s", len(left_out), sorted(left_out)[:5])
        elif has_split_folders(folders):
            names = [PurePosixPath(*folder.parts[1:]).as_posix() for folder in folders]
            lists = classes_by_split_folder(folders, names)
        else:
            lists = draw_split(sorted(set(names)), self.settings.split_seed, self.settings.split_shares)
        lists.check_classes()
        fit = resize_square if self.settings.resize == "squash" else crop_square
        yield from plan_splits(FileSource(files, images, names, partial(fit, size=self.image_size)), lists)


def class_folders(files: FileSet, images: list[str]) -> list[PurePosixPath]:
    """Return the folder of each image, relative to the deepest folder that contains all images.

    Raises:
        DataError: if there are no images, or some are not in a class folder.
    """
    if not images:
        raise DataError(f"{files.origin} contains no images; expected class folders with files like a.jpg or a.png")
    parents = [PurePosixPath(name).parent for name in images]
    first, last = min(parents).parts, max(parents).parts  # what these two share, all images share
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    folders = [PurePosixPath(*parent.parts[shared:]) for parent in parents]
    loose = [name for name, folder in zip(images, folders, strict=True) if not folder.parts]
    if loose:
        raise DataError(
            f"{files.origin}: {len(loose)} images are not in a class folder ({loose[0]!r}); give each class a folder"
        )
    return folders


def has_split_folders(folders: list[PurePosixPath]) -> bool:
    """Return whether the outermost folders are named after splits.

    Raises:
        DataError: if only some are, or images are in a split folder without a class folder.
    """
    outer = {folder.parts[0] for folder in folders}
    if not outer & SPLIT_WORDS.keys():
        return False
    unexpected = sorted(outer - SPLIT_WORDS.keys())
    missing = [split for split in SPLITS if split not in {SPLIT_WORDS.get(name) for name in outer}]
    if unexpected or missing:
        raise DataError(
            f"split folders must be train, validation (or val) and test: missing {missing}, unexpected {unexpected}"
        )
    bare = sorted({str(folder) for folder in folders if len(folder.parts) < 2})
    if bare:
        raise DataError(f"images are directly in the split folders {bare}; give each class a folder of its own in them")
    return True


def classes_by_split_folder(folders: list[PurePosixPath], names: list[str]) -> ClassLists:
    """Return the classes of each split folder.

    Raises:
        DataError: if a class is in two splits; few-shot splits have disjoint classes.
    """
    split_of: dict[str, str] = {}
    for folder, name in zip(folders, names, strict=True):
        split = SPLIT_WORDS[folder.parts[0]]
        if split_of.setdefault(name, split) != split:
            raise DataError(
                f"class {name!r} is in {split_of[name]!r} and in {split!r}, but few-shot splits share no class; "
                "rename it in one of them, or give class folders only to have the split drawn"
            )
    return ClassLists({split: sorted(name for name, s in split_of.items() if s == split) for split in SPLITS})


def draw_split(names: list[str], seed: int, shares: tuple[float, float, float]) -> ClassLists:
    """Split classes by shares, ordered by a hash of seed and name; each split gets at least one class.

    Raises:
        DataError: if there are fewer than three classes.
    """
    if len(names) < len(SPLITS):
        raise DataError(f"{len(names)} classes cannot be split in three; give at least three class folders")
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    n_test = max(1, round(shares[2] * len(names)))
    n_validation = max(1, round(shares[1] * len(names)))
    n_train = max(1, len(names) - n_test - n_validation)
    stops = (0, n_train, min(n_train + n_validation, len(names) - 1), len(names))
    return ClassLists({split: sorted(order[stops[i] : stops[i + 1]]) for i, split in enumerate(SPLITS)})
