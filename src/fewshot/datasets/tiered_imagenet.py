"""tieredImageNet: 608 classes of ILSVRC-2012, 351 / 97 / 160 by high-level category, 84 x 84 (Ren et al., ICLR 2018).

Read from `<split>_images_png.pkl` with `<split>_labels.pkl` (one pickle with all PNG files of a split, which must fit
in memory), from `<split>_images.npz` with the same labels (row by row, so memory stays small), or from image files in
folders named by WordNet id. The public program that unpacks the pickles into `_images.npz` uses OpenCV, so the channels
there are blue, green, red.
"""

import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, ClassVar

from fewshot.datasets.archives import Limits
from fewshot.datasets.base import FileDataset
from fewshot.datasets.channel_order import BgrSource, ComparedSource, check_colours
from fewshot.datasets.class_lists import CLASS_LISTS_DIR, read_yaml
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
    unknown_form,
    value_of,
)
from fewshot.datasets.split_files import SplitPlan
from fewshot.errors import DataError, ResourceError, did_you_mean, quoted

log = logging.getLogger(__name__)

NAMES_FILE = CLASS_LISTS_DIR / "tiered_imagenet.names.yaml"
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
            plans = plan_split_sources(self._sources(files, labels, arrays, pickles), lists)
        elif images := image_names(files):
            self._note_form("image files", "rgb")
            source = image_source(files, images, self.image_size)
            self.check_split_folders(images, source.classes)
            plans = plan_splits(self._in_rgb(source, "rgb"), lists)
        else:
            raise unknown_form(
                files,
                "tieredImageNet",
                "{train,val,test}_images.npz or _images_png.pkl with _labels.pkl, or images in folders named by "
                "WordNet id",
            )
        advice = ", and set channel_order to rgb or bgr in section prepare"
        yield from check_colours(plans, self.findings, advice)

    def _sources(
        self, files: FileSet, labels: dict[str, str], arrays: dict[str, str], pickles: dict[str, str]
    ) -> dict[str, ImageSource]:
        """Return the source of each split: the PNG files if there are any and they fit in memory, else the array."""
        sources: dict[str, ImageSource] = {}
        for split, name in labels.items():
            classes = read_class_names(files, name)
            if split in pickles and (split not in arrays or fits_in_memory(files.sizes[pickles[split]])):
                check_memory(files.where(pickles[split]), files.sizes[pickles[split]])
                to_array = partial(resize_square, size=self.image_size)
                encoded = PickledFilesSource(files, pickles[split], classes, to_array)
                sources[split] = self._in_rgb(encoded, "rgb")
                self._note_form("PNG files in one pickle per split", "rgb")
                if split in arrays:
                    other = StreamSource(files, arrays[split], open_array, classes)
                    sources[split] = ComparedSource(sources[split], other)
            elif split in arrays:
                sources[split] = self._in_rgb(StreamSource(files, arrays[split], open_array, classes), "bgr")
                self._note_form("arrays (.npz)", "bgr")
        return sources

    def _in_rgb(self, source: ImageSource, usual: str) -> ImageSource:
        return BgrSource(source) if self._order(usual) == "bgr" else source

    def _order(self, usual: str) -> str:
        """Return the order of the channels of a form: the user's, or the usual one."""
        chosen: str = self.settings.channel_order
        return usual if chosen == "auto" else chosen

    def _note_form(self, form: str, usual: str) -> None:
        why = "usual for this form" if self.settings.channel_order == "auto" else "set by the user"
        self.findings["form"] = form
        self.findings["channel order"] = f"{self._order(usual)} ({why}); stored as rgb"


def read_class_names(files: FileSet, name: str) -> list[str]:
    """Return the class of each image from a labels file: its WordNet id, or its number if the file names no classes.

    Raises:
        DataError: if the file names a class that tieredImageNet does not have.
    """
    content, where = read_pickle(files, name), files.where(name)
    texts = content.get("label_specific_str") if isinstance(content, dict) else None
    if texts is None:
        return labels_to_names(value_of(content, ["labels", "label_specific"], where), where)
    identifiers = {words: identifier for identifier, words in read_yaml(NAMES_FILE).items()}
    names = {label: wordnet_id_of(text, identifiers, where) for label, text in enumerate(texts)}
    return labels_to_names(value_of(content, ["label_specific"], where), where, names)


def wordnet_id_of(text: Any, identifiers: Mapping[str, str], where: str) -> str:
    """Return the WordNet id of a class given as "robin, American robin, Turdus migratorius", or as its id.

    Args:
        text: the class in the labels file.
        identifiers: WordNet ids by first name.
        where: file in messages.

    Raises:
        DataError: if there is no such class.
    """
    words = str(text).split(",")[0].strip().replace("_", " ")
    if words in identifiers.values():
        return words
    if words not in identifiers:
        raise DataError(
            f"{where}: label_specific_str names {quoted(text)}, which is not a class of tieredImageNet; it is another "
            f"data set or damaged, fetch it again.{did_you_mean(words, identifiers)}"
        )
    return identifiers[words]


@contextmanager
def open_array(file: BinaryIO) -> Iterator[BinaryIO]:
    """Open the array `images` inside an .npz file as a stream."""
    with zipfile.ZipFile(file) as archive:
        if ARRAY_NAME not in archive.namelist():
            raise DataError(f"the .npz file contains {archive.namelist()[:5]}, expected {ARRAY_NAME!r}; fetch it again")
        with archive.open(ARRAY_NAME) as stream:
            yield stream  # type: ignore[misc]


def fits_in_memory(size: int) -> bool:
    """Return whether this machine can read a pickle of PNG files of `size` bytes."""
    return PICKLE_MEMORY * size <= total_memory()


def total_memory() -> int:
    """Return the memory of this machine, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(name: str, size: int) -> None:
    """Log how much memory a pickle of PNG files needs, before it is read.

    Args:
        name: name of the pickle.
        size: its size in bytes.

    Raises:
        ResourceError: if this machine has less memory.
    """
    needed = int(PICKLE_MEMORY * size)
    log.warning("%s is a single pickle: reading it takes about %.1f GB of memory", name, needed / 1e9)
    if not fits_in_memory(size):
        raise ResourceError(
            f"{name} is a single pickle that takes about {needed / 1e9:.0f} GB of memory, this machine has "
            f"{total_memory() / 1e9:.0f}; use the .npz files or image folders, which are read piece by piece"
        )
