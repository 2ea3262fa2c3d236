"""`folder`: the user's own images in class folders, or in folders train, validation and test of class folders.

Without split folders, the classes are split by a file that lists them, or at random: classes are ordered by a hash of
the seed and their name, so that adding a class moves few others.
"""

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from fewshot.datasets import SPLITS
from fewshot.datasets.archives import Limits, open_files
from fewshot.datasets.base import Dataset
from fewshot.datasets.class_lists import ClassLists, read_class_lists
from fewshot.datasets.disk import require_space
from fewshot.datasets.file_sets import FileSet
from fewshot.datasets.images import (
    MAX_FILE_BYTES,
    BrokenImageError,
    crop_square,
    is_image_name,
    refuse_broken,
    resize_square,
)
from fewshot.datasets.sources import SPLIT_WORDS, ArraySource, check_complete, decode_counted, image_names, plan_splits
from fewshot.datasets.split_files import SplitPlan
from fewshot.errors import DataError

USUAL_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{0,4}")  # others, such as numbers, are counted together
LIMITS = Limits(members=5_000_000, total_bytes=1 << 40)


class Folder(Dataset):
    """The data set `folder`."""

    name = "folder"

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.image_size = settings.image_size

    def splits(self, files: Sequence[Path], scratch: Path) -> Iterator[SplitPlan]:
        """Decode all images into one array in `scratch`, so that broken ones are known first, and divide it.

        Raises:
            DataError: if the folder has no such form, or has broken images that the settings do not skip.
        """
        with open_files(files, scratch, LIMITS) as file_set:
            file_set.report_to(self.tally)
            images = image_names(file_set)
            folders = class_folders(file_set, images)
            names, lists = self._classes(folders)
            check_complete(file_set.origin, Counter(names), lists)
            unlisted = set(names) - {name for split in lists.splits.values() for name in split}
            wanted = [row for row, name in enumerate(names) if name not in unlisted]
            pixels, decoded = self._decode_all(file_set, [images[row] for row in wanted], scratch)
            kept = [wanted[number] for number in decoded]
            self._note(file_set, images, folders)
            if self.settings.on_broken == "refuse" or not kept:
                refuse_broken(
                    file_set.origin,
                    {repr(name): reason for name, reason in self.tally.broken.items()},
                    "replace or remove them, or leave them out with on_broken: skip in section prepare of params.yaml",
                )
            names, lists = self._classes([folders[row] for row in kept])
            self.tally.noted += Counter(
                {
                    "classes not in the split file": len(unlisted),
                    "single-image classes": list(Counter(names).values()).count(1),
                }
            )
            yield from plan_splits(ArraySource(file_set.origin, pixels, names, [images[row] for row in kept]), lists)

    def _fit(self, image: Image.Image) -> np.ndarray:
        """Resize an RGB image to a square, as the settings say."""
        fit = resize_square if self.settings.resize == "squash" else crop_square
        return fit(image, self.image_size)

    def _classes(self, folders: list[PurePosixPath]) -> tuple[list[str], ClassLists]:
        """Return the class of each image, given its folder, and the classes of each split."""
        names = [folder.as_posix() for folder in folders]
        if self.settings.split_file is not None:
            lists = read_class_lists(Path(self.settings.split_file))
        elif has_split_folders(folders):
            names = [PurePosixPath(*folder.parts[1:]).as_posix() for folder in folders]
            lists = classes_by_split_folder(folders, names)
        else:
            lists = draw_split(sorted(set(names)), self.settings.split_seed, self.settings.split_shares)
        lists.check_classes()
        return names, lists

    def _decode_all(self, files: FileSet, names: Sequence[str], scratch: Path) -> tuple[np.ndarray, list[int]]:
        """Decode images into one file; record the broken ones in `tally`.

        Returns:
            The images that are not broken, (N, H, W, 3) uint8, and their numbers in `names`.
        """
        path, decoded = scratch / "decoded-images", []
        needed = len(names) * int(np.prod(self.image_shape))
        require_space(str(scratch), needed, shutil.disk_usage(scratch).free)
        with path.open("wb") as out:
            for number, name in enumerate(names):
                try:
                    image = self._fit(decode_counted(files, files.read(name, MAX_FILE_BYTES), repr(name)))
                except DataError as error:
                    self.tally.broken[name] = (
                        error.reason if isinstance(error, BrokenImageError) else f"cannot be read ({error})"
                    )
                    continue
                out.write(np.ascontiguousarray(image).data)
                decoded.append(number)
        shape = (len(decoded), *self.image_shape)
        return np.memmap(path, np.uint8, "r", 0, shape) if decoded else np.empty(shape, np.uint8), decoded

    def _note(self, files: FileSet, images: Sequence[str], folders: Sequence[PurePosixPath]) -> None:
        """Record what is not read, and folders that may be named by mistake."""
        others = [PurePosixPath(name).suffix.lower() for name in files.names() if not is_image_name(name)]
        self.tally.skipped.update(f"{suffix if USUAL_SUFFIX.fullmatch(suffix) else 'other'} files" for suffix in others)
        with_images = {str(parent) for name in images for parent in PurePosixPath(name).parents}
        self.tally.skipped += Counter(
            {
                "folders without images": len(set(files.folders) - with_images),
                "broken images": len(self.tally.broken),
            }
        )
        self.tally.noted += Counter(
            {"folders named like images": len({folder for folder in folders if is_image_name(folder.name)})}
        )


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
