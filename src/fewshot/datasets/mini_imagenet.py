"""miniImageNet: 100 classes of ILSVRC-2012, 64 / 16 / 20, 600 images each, 84 x 84 (Ravi & Larochelle, ICLR 2017).

Read from pickles, one per split (Ren et al.: `image_data`, `class_dict`; Gidaris & Komodakis: `data`, `labels`,
`catname2label`), from image files with the WordNet id in the name of their folder or of the file, or from parquet files
of the Hugging Face Hub. Full-size images are resized to 84 x 84 with Pillow's default filter, as the published loaders
do.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np

from fewshot.datasets.archives import Limits
from fewshot.datasets.base import FileDataset
from fewshot.datasets.channel_order import check_colours
from fewshot.datasets.file_sets import FileSet
from fewshot.datasets.images import resize_square
from fewshot.datasets.parquet import ParquetSource, parquet_names
from fewshot.datasets.sources import (
    PICKLE_ENDINGS,
    ArraySource,
    FileSource,
    ImageSource,
    class_dict_names,
    files_by_split,
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

WORDNET_ID = re.compile(r"n\d{8}")


class MiniImagenet(FileDataset):
    """The data set `mini_imagenet`."""

    name = "mini_imagenet"
    image_size = 84
    limits: ClassVar[Limits] = Limits(members=200_000, total_bytes=12 << 30)

    def read(self, files: FileSet) -> Iterator[SplitPlan]:
        """Yield the splits from whichever form the files have."""
        yield from check_colours(self._plans(files), self.findings)

    def _plans(self, files: FileSet) -> Iterator[SplitPlan]:
        lists = self.class_lists
        # These contain more images of the train classes; they are not splits.
        pickles = files_by_split(files, PICKLE_ENDINGS, ignore=("train_phase_val", "train_phase_test"))
        if pickles:
            self.findings["form"] = "one pickle per split"
            sources = {split: read_split_pickle(files, name) for split, name in pickles.items()}
            yield from plan_split_sources(sources, lists)
        elif tables := parquet_names(files):
            self.findings["form"] = "parquet files"
            table = ParquetSource(files, tables, partial(resize_square, size=self.image_size))
            yield from plan_splits(table.without_surplus(lists), lists)
        elif images := image_names(files):
            self.findings["form"] = "image files"
            source = image_source(files, images, self.image_size)
            self.check_split_folders(images, source.classes)
            yield from plan_splits(source, lists)
        else:
            raise unknown_form(
                files,
                "miniImageNet",
                "pickles of train, val and test, images in folders named by WordNet id (n01532829), or parquet files "
                "whose classes are WordNet ids",
            )


def image_source(files: FileSet, names: list[str], size: int) -> ImageSource:
    """Read image files with the WordNet id of their class in the name of their folder or of the file."""
    return FileSource(files, names, [wordnet_id(name) for name in names], partial(resize_square, size=size))


def wordnet_id(name: str) -> str:
    """Return the WordNet id in the name of an image's folder, else in the file name; "" if there is none."""
    path = PurePosixPath(name)
    found = WORDNET_ID.fullmatch(path.parent.name) or WORDNET_ID.match(path.name)
    return found.group() if found else ""


def read_split_pickle(files: FileSet, name: str) -> ImageSource:
    """Read the pickle of one split, in either format."""
    content, where = read_pickle(files, name), files.where(name)
    images = np.asarray(value_of(content, ["image_data", "data"], where))
    if "class_dict" in content:
        return ArraySource(where, images, class_dict_names(content["class_dict"], len(images), where), name)
    labels = value_of(content, ["labels"], where)
    return ArraySource(where, images, labels_to_names(labels, where, _category_names(content, where)), name)


def _category_names(content: Mapping[str, Any], name: str) -> dict[int, str] | None:
    """Return label -> WordNet id, if the pickle has it."""
    categories = content.get("catname2label")
    if categories is None:
        return None
    if not isinstance(categories, dict):
        raise DataError(f"{name}: catname2label is {type(categories).__name__}, expected WordNet id -> label")
    return {int(label): str(category) for category, label in categories.items()}
