"""Tested classes that a model was trained on: data sets cut from the same images may share classes across splits."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from fewshot.datasets import DATASETS


@dataclass(frozen=True)
class SeenClasses:
    """The classes of a tested split that are among those of the trained ones.

    Attributes:
        names: their names, sorted; () if the two data sets have no images in common, or the classes are not known.
        tested: number of classes of the tested split.
    """

    names: tuple[str, ...] = ()
    tested: int = 0

    @property
    def text(self) -> str:
        """ "11 of the 20 tested classes are training classes"; "" without any."""
        return f"{len(self.names)} of the {self.tested} tested classes are training classes" if self.names else ""


def seen_classes(dataset: str, trained: Collection[str], target: str, split: str) -> SeenClasses:
    """Return which classes of a split of `target` are classes of the `trained` splits of `dataset`.

    Args:
        dataset: entry of `DATASETS` that the model was trained on.
        trained: its splits that were used; empty for an untrained model.
        target: entry of `DATASETS` that it is tested on.
        split: tested split of the target.
    """
    images = DATASETS[dataset].images
    if images is None or images != DATASETS[target].images:
        return SeenClasses()
    known = {name for part in trained for name in _classes(dataset, part)}
    tested = _classes(target, split)
    return SeenClasses(tuple(sorted(known.intersection(tested))), len(tested))


@cache
def _classes(dataset: str, split: str) -> tuple[str, ...]:
    from fewshot.datasets.class_lists import CLASS_LISTS_DIR, read_class_lists  # only here: no training reads them

    return tuple(read_class_lists(CLASS_LISTS_DIR / f"{dataset}.yaml").splits[split])
