"""tieredImageNet: 608 classes of ILSVRC-2012, 351 / 97 / 160 by high-level category, 84 x 84 (Ren et al., ICLR 2018).

Read from `<split>_images.npz` with `<split>_labels.pkl` (row by row, so memory stays small), from
`<split>_images_png.pkl` with the same labels (one pickle with all PNG files of a split, which must fit in memory), or
from image files in folders named by WordNet id.
"""

import logging
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, ClassVar

from fewshot.datasets.archives import Limits
from fewshot.datasets.base import FileDataset
from fewshot.datasets.file_sets import FileSet
from fewshot.datasets.images import resize_square
from fewshot.datasets.mini_imagenet import image_source
from fewshot.datasets.sources import (
    ImageSource,
    PickledFilesSource,
    StreamSource,
    files_by_split,
    image_names,
    labels_to_names,
    plan_split_sources,
    plan_splits,
    read_pickle,
    value_of,
)
from fewshot.datasets.split_files import SplitPlan
from fewshot.errors import DataError, ResourceError

log = logging.getLogger(__name__)

ARRAY_NAME = "images.npy"
PICKLE_MEMORY = 1.3  # memory of an unpickled list of PNG files, relative to its size on disk


class TieredImagenet(FileDataset):
    """The data set `tiered_imagenet`."""

    name = "tiered_imagenet"
    image_size = 84
    limits: ClassVar[Limits] = Limits(members=2_000_000, total_bytes=160 << 30)

    def read(self, files: FileSet) -> Iterator[SplitPlan]:
        """Yield the splits from whichever form the files have."""
        lists = self.class_lists
        labels = files_by_split(files, ["_labels.pkl"])
        arrays, pickles = files_by_split(files, ["_images.npz"]), files_by_split(files, ["_images_png.pkl"])
        if labels and (arrays or pickles):
            yield from plan_split_sources(self._sources(files, labels, arrays, pickles), lists)
        elif images := image_names(files):
            yield from plan_splits(image_source(files, images, self.image_size), lists)
        else:
            raise DataError(
                f"{files.origin} is not a known form of tieredImageNet; accepted: {{train,val,test}}_images.npz or "
                f"_images_png.pkl with _labels.pkl, or images in folders named by WordNet id; found {files.names()[:5]}"
            )

    def _sources(
        self, files: FileSet, labels: dict[str, str], arrays: dict[str, str], pickles: dict[str, str]
    ) -> dict[str, ImageSource]:
        sources: dict[str, ImageSource] = {}
        for split, name in labels.items():
            numbers = value_of(read_pickle(files, name), ["labels", "label_specific"], name)
            classes = labels_to_names(numbers, name)
            if split in arrays:
                sources[split] = StreamSource(files, arrays[split], open_array, classes)
            elif split in pickles:
                check_memory(pickles[split], files.sizes[pickles[split]])
                to_array = partial(resize_square, size=self.image_size)
                sources[split] = PickledFilesSource(files, pickles[split], classes, to_array)
        return sources


@contextmanager
def open_array(file: BinaryIO) -> Iterator[BinaryIO]:
    """Open the array `images` inside an .npz file as a stream."""
    with zipfile.ZipFile(file) as archive:
        if ARRAY_NAME not in archive.namelist():
            raise DataError(f"the .npz file contains {archive.namelist()[:5]}, expected {ARRAY_NAME!r}; fetch it again")
        with archive.open(ARRAY_NAME) as stream:
            yield stream  # type: ignore[misc]


def check_memory(name: str, size: int) -> None:
    """Log how much memory a pickle of PNG files needs, before it is read.

    Args:
        name: name of the pickle.
        size: its size in bytes.

    Raises:
        ResourceError: if this machine has less memory.
    """
    needed = int(PICKLE_MEMORY * size)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    log.warning("%s is a single pickle: reading it takes about %.1f GB of memory", name, needed / 1e9)
    if needed > total:
        raise ResourceError(
            f"{name} is a single pickle that takes about {needed / 1e9:.0f} GB of memory, this machine has "
            f"{total / 1e9:.0f}; use the .npz files or image folders, which are read piece by piece"
        )
