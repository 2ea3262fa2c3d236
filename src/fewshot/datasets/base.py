"""What a data set is: where its files come from, how they become splits, and what must then be true of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fewshot.datasets.store import SplitPlan


class Dataset(ABC):
    """Base of the data sets; built from the settings of its registry entry.

    Attributes:
        name: its name in the registry.
        image_size: side of the stored images, pixels.
    """

    name: str
    image_size: int

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the stored images."""
        return self.image_size, self.image_size, 3

    @abstractmethod
    def splits(self, files: Sequence[Path], scratch: Path) -> Iterator[SplitPlan]:
        """Yield train, validation and test.

        Args:
            files: what `fewshot.datasets.prepare.download` returned.
            scratch: an empty folder for temporary files.

        Raises:
            DataError: if the files are not this data set.
        """
