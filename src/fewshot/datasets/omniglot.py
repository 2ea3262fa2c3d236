"""Omniglot: 1,623 characters of 50 alphabets, 20 drawings each (Lake et al., Science 2015).

Train and validation are the first 25 and the last 5 of the background alphabets by name, test is the 20 evaluation
alphabets (`splits/omniglot.yaml`). Drawings are stored with ink 255 on 0 (the published files have black ink on white),
reduced from 105 to 28 pixels with Pillow's Lanczos filter, as three identical channels. `rotations` adds each character
rotated by 90, 180 and 270 degrees as separate classes, as in many papers.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps

from fewshot.datasets import SPLITS
from fewshot.datasets.archives import Limits
from fewshot.datasets.base import FileDataset
from fewshot.datasets.class_digests import check_pixels_of, read_digests
from fewshot.datasets.class_lists import CLASS_LISTS_DIR, ClassLists, read_yaml
from fewshot.datasets.file_sets import FileSet
from fewshot.datasets.sources import FileSource, ImageSource, image_names, plan_splits, unknown_form
from fewshot.datasets.split_files import SplitPlan

log = logging.getLogger(__name__)

SIZE = 28
LEFT_OUT = re.compile(r"(images_background_small|strokes_)")
ANGLES = (0, 90, 180, 270)


class Omniglot(FileDataset):
    """The data set `omniglot`."""

    name = "omniglot"
    image_size = SIZE
    limits: ClassVar[Limits] = Limits(members=200_000, total_bytes=1 << 30)

    @property
    def class_lists(self) -> ClassLists:
        """One class per character: "<alphabet>/character01" and so on; rotated ones end in "@90"."""
        entries = read_yaml(CLASS_LISTS_DIR / "omniglot.yaml")
        splits = {
            split: [
                character_name(alphabet, i) for alphabet, size in entries[split].items() for i in range(1, size + 1)
            ]
            for split in SPLITS
        }
        if self.settings.rotations:
            splits = {split: [rotated(name, a) for name in names for a in ANGLES] for split, names in splits.items()}
        lists = ClassLists(splits, images_per_class=entries["images_per_class"])
        lists.check_classes()
        return lists

    def read(self, files: FileSet) -> Iterator[SplitPlan]:
        """Yield the splits."""
        images = self._drawings(files)
        classes = ["/".join(PurePosixPath(name).parts[-3:-1]) for name in images]
        self.check_split_folders(images, classes)
        source: ImageSource = FileSource(files, images, classes, self._reduce)
        if self.settings.rotations:
            source = RotatedSource(source)
        plans = plan_splits(source, self.class_lists)
        yield from check_pixels_of(plans, read_digests("omniglot"), self.findings)

    def _drawings(self, files: FileSet) -> list[str]:
        """Return the names of the drawings; sets that repeat some of them, and strokes, are left out."""
        names = [name for name in image_names(files) if len(PurePosixPath(name).parts) >= 3]
        left_out = sorted({part for name in files.names() for part in name.split("/") if LEFT_OUT.match(part)})
        if left_out:
            self.findings["left out"] = ", ".join(left_out)
            log.info("omniglot: %s are left out", ", ".join(left_out))
        names = [name for name in names if not any(LEFT_OUT.match(part) for part in name.split("/"))]
        if not names:
            raise unknown_form(
                files,
                "Omniglot",
                "images_background.zip with images_evaluation.zip, or folders <alphabet>/<character>/<drawing>.png",
            )
        return names

    def _reduce(self, image: Image.Image) -> np.ndarray:
        grey = image.convert("L")
        if not is_paper_light(grey):
            self.findings["ink"] = "white on black in the files"
        return reduce_drawing(grey)


class RotatedSource:
    """A source with each image four times, rotated by 0, 90, 180 and 270 degrees."""

    def __init__(self, source: ImageSource) -> None:
        self.origin, self._source = source.origin, source
        self.classes: Sequence[str] = [rotated(name, angle) for name in source.classes for angle in ANGLES]

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray, str]]:
        """Yield the images; rows 4 i .. 4 i + 3 are image i."""
        wanted = set(rows)
        for row, image, source_id in self._source.read(sorted({row // len(ANGLES) for row in rows})):
            for turn, angle in enumerate(ANGLES):
                if row * len(ANGLES) + turn in wanted:
                    yield row * len(ANGLES) + turn, np.rot90(image, turn), rotated(source_id, angle)


def character_name(alphabet: str, number: int) -> str:
    """Return the class name of an alphabet's character, counted from 1."""
    return f"{alphabet}/character{number:02d}"


def rotated(name: str, angle: int) -> str:
    """Return the name of a rotated class or image."""
    return f"{name}@{angle}" if angle else name


def is_paper_light(grey: Image.Image) -> bool:
    """Return whether most of a drawing is light; ink covers the smaller part."""
    return float(np.asarray(grey).mean()) > 127


def reduce_drawing(image: Image.Image) -> np.ndarray:
    """Downscale a drawing, with ink 255 on 0; (28, 28, 3) uint8."""
    grey = image.convert("L")
    if is_paper_light(grey):
        grey = ImageOps.invert(grey)
    if grey.size != (SIZE, SIZE):
        grey = grey.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.repeat(np.asarray(grey)[..., None], 3, axis=2)
