"""The data set interface: how files become splits."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fewshot.datasets import SPLITS
from fewshot.datasets.archives import Limits, open_files
from fewshot.datasets.class_lists import CLASS_LISTS_DIR, ClassLists, read_class_lists
from fewshot.datasets.file_sets import FileSet
from fewshot.datasets.sources import split_folder_conflict
from fewshot.datasets.split_files import SplitPlan
from fewshot.datasets.tally import Tally

log = logging.getLogger(__name__)


class Dataset(ABC):
    """Base of the data sets; built from the settings of its registry entry.

    Attributes:
        name: name in the registry.
        image_size: side of the stored images, pixels.
        tally: what was skipped or converted; complete when all splits have been read.
        findings: what reading the files showed (their form, what was assumed, what was left out); complete when all
            splits have been read. Both are recorded in the manifest.
    """

    name: ClassVar[str]
    image_size: int

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.tally = Tally()
        self.findings: dict[str, str] = {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the stored images."""
        return self.image_size, self.image_size, 3

    @abstractmethod
    def splits(self, files: Sequence[Path], scratch: Path) -> Iterator[SplitPlan]:
        """Yield train, validation and test.

        Args:
            files: downloaded files, or the user's own files, archives and folders.
            scratch: an empty folder for temporary files.

        Raises:
            DataError: if the files are not this data set.
        """


class FileDataset(Dataset):
    """A data set that is read from files, archives or folders.

    Attributes:
        limits: what the archives may contain.
    """

    limits: ClassVar[Limits] = Limits()

    def splits(self, files: Sequence[Path], scratch: Path) -> Iterator[SplitPlan]:
        """Open the files as one set and read the splits from it."""
        with open_files(files, scratch, self.limits) as file_set:
            file_set.report_to(self.tally)
            yield from self.read(file_set)

    @abstractmethod
    def read(self, files: FileSet) -> Iterator[SplitPlan]:
        """Recognise the form of the files and yield train, validation and test."""

    def warn(self, topic: str, text: str) -> None:
        """Record a finding and log it as a warning."""
        self.findings[topic] = text
        log.warning("%s: %s", self.name, text)

    def check_split_folders(self, names: Sequence[str], classes: Sequence[str]) -> None:
        """Warn if image files are in folders named after splits (train, val, ...) that contradict the class lists."""
        lists = self.class_lists
        conflict = split_folder_conflict(names, classes, lists)
        if conflict:
            class_name, folders, count = conflict
            split = next(split for split in SPLITS if class_name in lists.splits[split])
            self.warn(
                "split folders",
                f"the folders named after splits are ignored because they contradict the published class lists "
                f"({count} classes): {class_name!r} is in {' and '.join(sorted(folders))}, but is a class of {split}. "
                "To use the split of the folders, prepare them as data set `folder`",
            )

    @property
    def class_lists(self) -> ClassLists:
        """The published classes and numbers of images."""
        return read_class_lists(CLASS_LISTS_DIR / f"{self.name}.yaml")
