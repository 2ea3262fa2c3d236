"""CUB-200-2011: 200 bird species, 11,788 photographs (Wah et al. 2011); 100 / 50 / 50 (Chen et al., ICLR 2019).

Read from the original archive or from any folder of class folders with the original names. Photographs are not cropped
to the bounding boxes; they are resized to 84 x 84 with Pillow's default filter.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import ClassVar

from fewshot.datasets.archives import Limits
from fewshot.datasets.base import FileDataset
from fewshot.datasets.file_sets import FileSet
from fewshot.datasets.images import resize_square
from fewshot.datasets.sources import FileSource, folder_class, image_names, plan_splits, unknown_form
from fewshot.datasets.split_files import SplitPlan


class Cub(FileDataset):
    """The data set `cub`."""

    name = "cub"
    image_size = 84
    limits: ClassVar[Limits] = Limits(members=100_000, total_bytes=4 << 30)

    def read(self, files: FileSet) -> Iterator[SplitPlan]:
        """Yield the splits."""
        lists = self.class_lists
        known = {name for names in lists.splits.values() for name in names}
        images = [name for name in image_names(files) if folder_class(name) in known]
        if not images:
            raise unknown_form(
                files,
                "CUB-200-2011",
                "the archive CUB_200_2011.tgz, or images in folders named as in it (001.Black_footed_Albatross)",
            )
        # Segmentations and the like are in folders with the same names next to `images`.
        photographs = [name for name in images if "images" in PurePosixPath(name).parts] or images
        to_array = partial(resize_square, size=self.image_size)
        classes = [folder_class(name) for name in photographs]
        self.check_split_folders(photographs, classes)
        source = FileSource(files, photographs, classes, to_array)
        yield from plan_splits(source, lists)
