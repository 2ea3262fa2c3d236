"""What preparation did not take as it is from the files it was given; part of every store's record."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts by kind; filled while files are read.

    Attributes:
        skipped: files and folders that were not read.
        converted: images that were converted, by the kinds of `images.decode_image`.
        noted: what was taken as it is but may be a mistake.
        broken: name of each broken image that was left out -> why it cannot be used.
    """

    skipped: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    broken: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return one line per kind of finding, for the log."""
        named = (("skipped", self.skipped), ("converted", self.converted), ("noted", self.noted))
        return [f"{name}: {summary(found)}" for name, found in named if found.total()]


def summary(counts: Mapping[str, int]) -> str:
    """Return counts as text, the largest first: '3 (hidden files: 2, broken links: 1)'."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return f"{sum(counts.values())} ({', '.join(f'{kind}: {count}' for kind, count in ordered)})"
