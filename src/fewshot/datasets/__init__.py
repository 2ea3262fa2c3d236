"""Data sets: raw archive -> verified uint8 store. One file per data set; register it here.

An entry states what is known of a data set before any download, so that the plan can check an experiment.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fewshot.datasets.settings import (
    FolderSettings,
    GlyphsSettings,
    ImagenetSettings,
    OmniglotSettings,
    SourceSettings,
    TieredImagenetSettings,
)
from fewshot.registry import Part

# Modules that cannot change a number (workflow/identity.py): refusals; reports of what was found, or seen before;
# settings, which enter the key by value.
NEUTRAL = ("disk", "seen_classes", "settings", "tally")

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DatasetPart(Part):
    """One data set.

    Attributes:
        image_size: side of the stored square images, pixels; None if set by the user (`settings.image_size`).
        images: whose images and class names it has, if other data sets have them too; else None.
        splits: split -> number of classes and minimum number of images per class; None if unknown in advance.
        data_files: class lists and digests in this folder that determine or check the content; part of the key.
        packages: distributions whose version determines the pixels; part of the key.
    """

    image_size: int | None = None
    images: str | None = None
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
    "cifar_fs": DatasetPart(
        "fewshot.datasets.cifar_fs:CifarFs",
        SourceSettings,
        image_size=32,
        images="CIFAR-100",
        splits={"train": (64, 600), "validation": (16, 600), "test": (20, 600)},
        data_files=("splits/cifar_fs.yaml", "splits/cifar100.digests.yaml"),
    ),
    "fc100": DatasetPart(
        "fewshot.datasets.fc100:Fc100",
        SourceSettings,
        image_size=32,
        images="CIFAR-100",
        splits={"train": (60, 600), "validation": (20, 600), "test": (20, 600)},
        data_files=("splits/fc100.yaml", "splits/cifar100.digests.yaml"),
    ),
    "mini_imagenet": DatasetPart(
        "fewshot.datasets.mini_imagenet:MiniImagenet",
        ImagenetSettings,
        image_size=84,
        images="ILSVRC-2012",
        splits={"train": (64, 600), "validation": (16, 600), "test": (20, 600)},
        data_files=("splits/mini_imagenet.yaml",),
    ),
    "tiered_imagenet": DatasetPart(
        "fewshot.datasets.tiered_imagenet:TieredImagenet",
        TieredImagenetSettings,
        image_size=84,
        images="ILSVRC-2012",
        splits={"train": (351, 732), "validation": (97, 732), "test": (160, 732)},  # the smallest class of ILSVRC-2012
        data_files=("splits/tiered_imagenet.yaml", "splits/tiered_imagenet.names.yaml"),
    ),
    "cub": DatasetPart(
        "fewshot.datasets.cub:Cub",
        SourceSettings,
        image_size=84,
        splits={"train": (100, 41), "validation": (50, 41), "test": (50, 41)},  # the smallest class of CUB-200-2011
        data_files=("splits/cub.yaml",),
    ),
    "omniglot": DatasetPart(
        "fewshot.datasets.omniglot:Omniglot",
        OmniglotSettings,
        image_size=28,
        splits={"train": (813, 20), "validation": (151, 20), "test": (659, 20)},
        data_files=("splits/omniglot.yaml", "splits/omniglot.digests.yaml"),
    ),
    "folder": DatasetPart("fewshot.datasets.folder:Folder", FolderSettings),
}
