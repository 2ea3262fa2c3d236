"""The built-in data set, and the published class lists."""

import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest

from fewshot.datasets import DATASETS, SPLITS, glyphs
from fewshot.datasets.class_lists import CLASS_LISTS_DIR, read_class_lists
from fewshot.datasets.omniglot import Omniglot
from fewshot.datasets.prepare import build_store
from fewshot.errors import DataError

SCRIPTS = {"train": {"LATIN"}, "validation": {"LATIN"}, "test": {"GREEK", "CYRILLIC"}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glyphs")
    return build_store("glyphs", DATASETS["glyphs"].settings(), folder / "raw", folder / "store")


def test_splits_are_as_the_registry_says(store):
    assert DATASETS["glyphs"].splits == {
        split: (len(store.split(split).class_names), int(store.split(split).class_sizes.min())) for split in SPLITS
    }
    assert store.image_shape == (32, 32, 3)


def test_there_are_130_characters_and_no_typeface_twice_in_a_class(store):
    assert sum(len(store.split(split).class_names) for split in SPLITS) >= 130
    for split in SPLITS:
        part = store.split(split)
        typefaces = np.array(part.source_ids).reshape(len(part.class_names), 60)
        assert all(len(set(row)) == 60 for row in typefaces)


def test_splits_differ_by_script():
    for split, scripts in SCRIPTS.items():
        letters = [character for character in glyphs.CHARACTERS[split] if character.isalpha()]
        assert {unicodedata.name(letter).split()[0] for letter in letters} == scripts


def test_no_two_images_are_equal(store):
    assert set(store.record["duplicates"]["within"].values()) == {0}
    assert set(store.record["duplicates"]["across"].values()) == {0}


def some_images(**settings):
    dataset = glyphs.Glyphs(DATASETS["glyphs"].settings(**settings))
    images = dataset._draw("aΩ", glyphs.load_typefaces(), glyphs.load_photographs())
    return np.stack([image for _, image, _ in images])


def test_images_depend_on_seed_and_style_only():
    first = some_images()
    np.testing.assert_array_equal(first, some_images())
    assert (first != some_images(seed=1)).any()
    assert (first != some_images(style="scene")).any()


def test_ink_stands_out_from_the_background(store):
    images = np.asarray(store.split("test").images, np.float32)
    assert (np.percentile(images, 98, axis=(1, 2, 3)) - np.percentile(images, 20, axis=(1, 2, 3)) > 20).mean() > 0.98


def test_a_missing_font_package_is_reported(monkeypatch):
    monkeypatch.setattr(glyphs, "FONT_FILES", {"fontpkg_nowhere": ("x.ttf",)})
    with pytest.raises(DataError, match="install the lock file"):
        glyphs.load_typefaces()


def test_too_few_typefaces_are_reported():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="0 installed typefaces"):
        glyphs.choose_typefaces(rng, [], "a")


PUBLISHED = ["cifar_fs", "fc100", "mini_imagenet", "tiered_imagenet", "cub"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_class_lists_agree_with_the_registry(name):
    lists = read_class_lists(CLASS_LISTS_DIR / f"{name}.yaml")
    for split in SPLITS:
        n_classes, smallest = DATASETS[name].splits[split]
        assert len(lists.splits[split]) == n_classes
        assert lists.images_per_class in (smallest, None)


def test_omniglot_has_1623_characters():
    plain = Omniglot(SimpleNamespace(rotations=False)).class_lists
    turned = Omniglot(SimpleNamespace(rotations=True)).class_lists

    assert {split: len(plain.splits[split]) for split in SPLITS} == {"train": 813, "validation": 151, "test": 659}
    assert {split: (len(plain.splits[split]), 20) for split in SPLITS} == DATASETS["omniglot"].splits
    assert sum(len(names) for names in turned.splits.values()) == 4 * 1623


def test_cub_lists_follow_the_published_rule():
    lists = read_class_lists(CLASS_LISTS_DIR / "cub.yaml")
    rule = {"train": lambda i: i % 2 == 1, "validation": lambda i: i % 4 == 2, "test": lambda i: i % 4 == 0}
    for split, holds in rule.items():
        assert all(holds(int(name.partition(".")[0])) for name in lists.splits[split])


def test_cifar_lists_split_the_same_100_classes():
    cifar_fs, fc100 = (read_class_lists(CLASS_LISTS_DIR / f"{name}.yaml").splits for name in ("cifar_fs", "fc100"))
    everything = {name for names in cifar_fs.values() for name in names}
    assert len(everything) == 100
    assert everything == {name for names in fc100.values() for name in names}


def test_published_numbers_of_images():
    tiered = read_class_lists(CLASS_LISTS_DIR / "tiered_imagenet.yaml")
    assert tiered.images_per_split == {"train": 448695, "validation": 124261, "test": 206209}
    assert read_class_lists(CLASS_LISTS_DIR / "cub.yaml").images_total == 11788
