"""CIFAR-100 (Krizhevsky 2009), the source of CIFAR-FS and FC100: all 600 images of each class, 32 x 32.

Read from the original Python archive, from PNG files in class folders, from parquet files of the Hugging Face Hub, or
from the authors' pickles, one per split.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from fewshot.datasets.archives import Limits
from fewshot.datasets.base import FileDataset
from fewshot.datasets.class_digests import check_pixels_of, identify_classes, read_digests
from fewshot.datasets.class_lists import ClassLists
from fewshot.datasets.file_sets import FileSet
from fewshot.datasets.parquet import ParquetSource, parquet_names
from fewshot.datasets.sources import (
    PICKLE_ENDINGS,
    ArraySource,
    FileSource,
    ImageSource,
    files_by_split,
    folder_class,
    image_names,
    labels_to_names,
    plan_split_sources,
    plan_splits,
    read_pickle,
    unknown_form,
    value_of,
)
from fewshot.datasets.split_files import SplitPlan
from fewshot.errors import DataError


class Cifar100Dataset(FileDataset):
    """Base of the data sets made from CIFAR-100."""

    image_size = 32
    limits: ClassVar[Limits] = Limits(members=200_000, total_bytes=1 << 30)

    def read(self, files: FileSet) -> Iterator[SplitPlan]:
        """Yield the splits from whichever form the files have; check the pixels of each class."""
        yield from check_pixels_of(self._plans(files), read_digests("cifar100"), self.findings)

    def _plans(self, files: FileSet) -> Iterator[SplitPlan]:
        lists = self.class_lists
        folder = original_folder(files)
        pickles = files_by_split(files, PICKLE_ENDINGS)
        if folder is not None:
            self.findings["form"] = "original archive"
            yield from plan_splits(read_original(files, folder), lists)
        elif pickles:
            self.findings["form"] = "one pickle per split"
            yield from plan_split_sources(read_split_pickles(files, pickles, lists), lists)
        elif tables := parquet_names(files):
            self.findings["form"] = "parquet files"
            yield from plan_splits(ParquetSource(files, tables, np.asarray), lists)
        elif images := image_names(files):
            self.findings["form"] = "image files"
            classes = [folder_class(name) for name in images]
            self.check_split_folders(images, classes)
            yield from plan_splits(FileSource(files, images, classes, np.asarray), lists)
        else:
            raise unknown_form(
                files,
                "CIFAR-100",
                "the archive cifar-100-python, PNG files in folders named by class, parquet files, or pickles of "
                "train, val and test",
            )


def original_folder(files: FileSet) -> PurePosixPath | None:
    """Return the folder that contains the files train, test and meta of the original archive, or None."""
    names = set(files.names())
    folders = [PurePosixPath(name).parent for name in names if PurePosixPath(name).name == "meta"]
    complete = [folder for folder in folders if {str(folder / "train"), str(folder / "test")} <= names]
    return min(complete) if complete else None


def read_original(files: FileSet, folder: PurePosixPath) -> ImageSource:
    """Read the original pickles; the two parts together have the 600 images of each class."""
    meta = str(folder / "meta")
    class_names = dict(enumerate(value_of(read_pickle(files, meta), ["fine_label_names"], files.where(meta))))
    images, classes, source_ids = [], [], []
    for part in ("train", "test"):
        name = str(folder / part)
        content, where = read_pickle(files, name), files.where(name)
        rows = np.asarray(value_of(content, ["data"], where))
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * 32 * 32:
            raise DataError(f"{where}: data are {rows.dtype} of shape {rows.shape}, expected uint8 (N, 3072)")
        labels = labels_to_names(value_of(content, ["fine_labels"], where), where, class_names)
        if len(labels) != len(rows):
            raise DataError(f"{where}: {len(rows)} images but {len(labels)} labels; fetch it again")
        images.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        classes += labels
        source_ids += [f"{part}#{row}" for row in range(len(rows))]
    return ArraySource(files.where(str(folder)), np.concatenate(images), classes, source_ids)


def read_split_pickles(files: FileSet, pickles: dict[str, str], lists: ClassLists) -> dict[str, ImageSource]:
    """Read the authors' pickles: `data` (N, 32, 32, 3) and `labels`.

    CIFAR-100's own labels are replaced by class names, and so are other numbers if the pixels are the published ones;
    else the numbers are kept, and only their counts can be checked.
    """
    fine_names = dict(enumerate(sorted(name for names in lists.splits.values() for name in names)))
    contents = {split: read_pickle(files, name) for split, name in pickles.items()}
    labels = {split: value_of(content, ["labels"], files.where(pickles[split])) for split, content in contents.items()}
    images = {split: np.asarray(value_of(c, ["data"], files.where(pickles[split]))) for split, c in contents.items()}
    numbers = {split: labels_to_names(labels[split], files.where(pickles[split])) for split in contents}
    known = all({fine_names.get(int(i)) for i in labels[split]} == set(lists.splits[split]) for split in contents)
    return {
        split: ArraySource(
            files.where(pickles[split]),
            images[split],
            labels_to_names(labels[split], files.where(pickles[split]), fine_names)
            if known
            else name_by_pixels(images[split], numbers[split], files.where(pickles[split])),
            pickles[split],
        )
        for split in contents
    }


def name_by_pixels(images: np.ndarray, classes: list[str], origin: str) -> list[str]:
    """Return the names of the published classes with the same pixels in place of numbers; `classes` if there are none.

    Raises:
        DataError: if only some classes have the published pixels.
    """
    if len(images) != len(classes) or images.dtype != np.uint8:
        return classes  # refused when the source is built
    names = identify_classes(images, classes, read_digests("cifar100"))
    unknown = sorted(set(classes) - names.keys())
    if names and unknown:
        raise DataError(
            f"{origin}: the images of {unknown[0]!r} are not those of any class of CIFAR-100, while {len(names)} other "
            "classes are identical; it is altered or damaged, fetch it again"
        )
    return [names.get(name, name) for name in classes]
