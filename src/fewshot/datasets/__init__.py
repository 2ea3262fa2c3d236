"""Data sets: raw archive -> verified uint8 store. One file a data set, one entry here.

An entry holds what is known of a data set before anything is downloaded, so that the plan can check an experiment.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fewshot.datasets.settings import GlyphsSettings
from fewshot.registry import Part

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DatasetPart(Part):
    """One data set.

    Attributes:
        image_size: side of the stored square images, pixels; None if the settings say it (`settings.image_size`).
        splits: by split the number of classes and a lower bound of the images a class; None if not known beforehand.
        data_files: files beside this one that decide the content (class lists); they belong in the key.
        packages: distributions whose version decides the pixels; they belong in the key.
    """

    image_size: int | None = None
    splits: Mapping[str, tuple[int, int]] | None = None
    data_files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


DATASETS: dict[str, DatasetPart] = {
    "glyphs": DatasetPart(
        "fewshot.datasets.glyphs:Glyphs",
        GlyphsSettings,
        image_size=32,
        splits={"train": (71, 60), "validation": (20, 60), "test": (46, 60)},
        packages=(
            "numpy",
            "pillow",
            "fonttools",
            "matplotlib",
            "scikit-learn",
            "fontpkg-roboto",
            "fontpkg-roboto-slab",
            "fontpkg-comfortaa",
            "fontpkg-jetbrains-mono",
            "fontpkg-fira-code",
            "fontpkg-eb-garamond",
            "fontpkg-press-start-2p",
            "fontpkg-vollkorn",
            "fontpkg-ibm-plex-sans",
            "fontpkg-open-sans",
            "fontpkg-literata",
            "fontpkg-caveat",
            "fontpkg-pacifico",
            "fontpkg-lobster",
            "fontpkg-playfair-display",
        ),
    ),
}
