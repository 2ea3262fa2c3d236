"""The order of the channels, which arrays do not state: OpenCV writes blue, green, red; everything else expects RGB."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from fewshot.datasets.sources import ImageSource
from fewshot.datasets.split_files import SplitPlan
from fewshot.errors import DataError

log = logging.getLogger(__name__)

SAMPLED = 64  # every 64th image enters the mean colour
# Photographs of ImageNet are redder than blue: 123 against 104 on average. A mean of many images below this is not one.
LEAST_RED_MINUS_BLUE = -2.0
BLUE = (
    "blue exceeds red by {excess:.0f} of 255 on average, unlike in photographs: red and blue are probably exchanged; "
    "look at the contact sheet{advice}"
)


class BgrSource:
    """A source whose images have their channels in the order blue, green, red; yields them as RGB."""

    def __init__(self, source: ImageSource) -> None:
        self.origin, self.classes, self._source = source.origin, source.classes, source

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray, str]]:
        """Yield the images."""
        for row, image, source_id in self._source.read(rows):
            yield row, image[..., ::-1], source_id


class ComparedSource:
    """A source that is read after one image of it was compared with the same row of another form of the same images.

    Args:
        source: the form that is read.
        other: the other form, in either order of the channels.

    Raises:
        DataError: when it is read, if the image differs in both orders.
    """

    def __init__(self, source: ImageSource, other: ImageSource) -> None:
        self.origin, self.classes = source.origin, source.classes
        self._source, self._other = source, other

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray, str]]:
        """Yield the images."""
        for number, (row, image, source_id) in enumerate(self._source.read(rows)):
            if number == 0:
                self._compare(row, image)
            yield row, image, source_id

    def _compare(self, row: int, image: np.ndarray) -> None:
        _, other, _ = next(iter(self._other.read([row])))
        if np.array_equal(image, other[..., ::-1]):
            log.info("%s has the channels in the other order than %s, which is read", self._other.origin, self.origin)
        elif not np.array_equal(image, other):
            raise DataError(
                f"image {row} of {self.origin} differs from that of {self._other.origin}, in either order of the "
                "channels; they are different data, remove one of them"
            )


def check_colours(
    plans: Iterable[SplitPlan], findings: dict[str, str], advice: str = "", sampled: int = SAMPLED
) -> Iterator[SplitPlan]:
    """Yield the splits of a data set of photographs; when all are read, warn if they are bluer than red on average.

    Args:
        plans: the splits.
        findings: receives the warning as entry `colours`.
        advice: what to do, appended to the warning.
        sampled: every how many images one enters the mean.
    """
    excess: list[float] = []
    for plan in plans:
        yield replace(plan, images=_sample(plan, excess, sampled))
    mean = float(np.mean(excess)) if excess else 0.0
    if mean < LEAST_RED_MINUS_BLUE:
        findings["colours"] = BLUE.format(excess=-mean, advice=advice)
        log.warning(findings["colours"])


def _sample(plan: SplitPlan, excess: list[float], sampled: int) -> Iterator[tuple[int, np.ndarray, str]]:
    """Yield the images; append the mean of red minus blue of every `sampled`-th one to `excess`."""
    for number, (label, image, source_id) in enumerate(plan.images):
        if number % sampled == 0:
            excess.append(float(image[..., 0].mean() - image[..., 2].mean()))
        yield label, image, source_id
