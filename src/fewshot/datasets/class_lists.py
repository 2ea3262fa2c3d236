"""The published class lists (`splits/*.yaml`): the classes of each split and the number of images they must have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fewshot.datasets import SPLITS
from fewshot.errors import DataError, allowed_values, quoted

CLASS_LISTS_DIR = Path(__file__).parent / "splits"
KEYS = (*SPLITS, "class_counts", "images_per_class", "images_per_split", "images_total")


@dataclass(frozen=True)
class ClassLists:
    """Classes of each split, and the published numbers of images.

    Attributes:
        splits: class names of train, validation and test.
        images_per_class: images in every class; None if the classes differ in size.
        images_per_split: images in each split; None if not published.
        images_total: images in all splits together; None if not published.
    """

    splits: Mapping[str, Sequence[str]]
    images_per_class: int | None = None
    images_per_split: Mapping[str, int] | None = None
    images_total: int | None = None

    def check_classes(self) -> None:
        """Raise `DataError` if a split is missing or empty, or a class is listed twice."""
        seen: dict[str, str] = {}
        for split in SPLITS:
            if not self.splits.get(split):
                raise DataError(
                    f"the class lists have no classes for split {split!r}; {', '.join(SPLITS)} all need some"
                )
            for name in self.splits[split]:
                if not isinstance(name, str):
                    raise DataError(f"split {split!r} lists {name!r}, which is not text; put class names in quotes")
                if name in seen:
                    raise DataError(f"class {name!r} is listed in {seen[name]!r} and again in {split!r}; list it once")
                seen[name] = split

    def check_images(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Compare the images found with the published numbers.

        Args:
            counts: by split, by class, the number of images found.

        Raises:
            DataError: at the first class or split that differs.
        """
        for split, classes in counts.items():
            for name, found in classes.items():
                if found == 0 or (self.images_per_class is not None and found != self.images_per_class):
                    expected = self.images_per_class or "at least 1"
                    raise DataError(
                        f"split {split!r}: class {name!r} has {found} images, expected {expected}; "
                        "the source is incomplete or another data set; fetch it again"
                    )
            expected_images = self.images_per_split[split] if self.images_per_split else None
            _check_sum(f"split {split!r}", sum(classes.values()), expected_images)
        _check_sum("all splits together", sum(sum(classes.values()) for classes in counts.values()), self.images_total)


def _check_sum(where: str, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise DataError(f"{where}: {found} images, expected {expected}; the source is incomplete or another data set")


def read_class_lists(path: Path) -> ClassLists:
    """Read and check a file of class lists.

    Raises:
        DataError: if it is unreadable, lists a class twice, or contradicts its own counts.
    """
    entries = read_yaml(path)
    for key in entries:
        if key not in KEYS:
            raise DataError(f"{path}: unknown key {quoted(key)}; {allowed_values(str(key), KEYS)}")
    splits = {split: entries.get(split) or [] for split in SPLITS}
    for split, names in splits.items():
        if not isinstance(names, list):
            raise DataError(f"{path}: {split!r} must be a list of class names, found {type(names).__name__}")
    lists = ClassLists(
        splits, entries.get("images_per_class"), entries.get("images_per_split"), entries.get("images_total")
    )
    try:
        lists.check_classes()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    for split, count in entries.get("class_counts", {}).items():
        if len(splits[split]) != count:
            raise DataError(
                f"{path}: split {split!r} lists {len(splits[split])} classes, but class_counts says {count}"
            )
    return lists


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping.

    Raises:
        DataError: if it cannot be read or contains anything else.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"cannot read the class lists {path}: {error}") from error
    if not isinstance(entries, dict):
        raise DataError(f"{path} must contain lists {', '.join(SPLITS)}, found {type(entries).__name__}")
    return entries
