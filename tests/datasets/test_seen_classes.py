"""Test classes that are training classes of another data set cut from the same images."""

import pytest
import yaml

from fewshot.datasets import DATASETS
from fewshot.datasets.class_lists import CLASS_LISTS_DIR
from fewshot.datasets.seen_classes import seen_classes

SHARED = {  # training split of the first, test split of the second
    ("cifar_fs", "fc100"): (11, 20),
    ("fc100", "cifar_fs"): (11, 20),
    ("mini_imagenet", "tiered_imagenet"): (13, 160),
    ("tiered_imagenet", "mini_imagenet"): (5, 20),
}


@pytest.mark.parametrize(("pair", "numbers"), SHARED.items())
def test_the_shared_classes_are_those_of_both_lists(pair, numbers):
    dataset, target = pair
    seen = seen_classes(dataset, ["train"], target, "test")
    lists = [yaml.safe_load((CLASS_LISTS_DIR / f"{name}.yaml").read_text()) for name in pair]
    assert set(seen.names) == set(lists[0]["train"]) & set(lists[1]["test"])
    assert (len(seen.names), seen.tested) == numbers
    assert seen.text == f"{numbers[0]} of the {numbers[1]} tested classes are training classes"


def test_validation_classes_count_where_they_are_trained_on():
    alone = set(seen_classes("mini_imagenet", ["train"], "tiered_imagenet", "test").names)
    merged = set(seen_classes("mini_imagenet", ["train", "validation"], "tiered_imagenet", "test").names)
    assert alone < merged


@pytest.mark.parametrize(("trained", "count"), [(["train"], 0), (["train", "validation"], 16), ([], 0)])
def test_a_split_that_was_trained_on_counts_on_the_same_data_set_too(trained, count):
    assert len(seen_classes("cifar_fs", trained, "cifar_fs", "validation").names) == count


@pytest.mark.parametrize("pair", [("cifar_fs", "cifar_fs"), ("cifar_fs", "omniglot"), ("mini_imagenet", "cub")])
def test_other_pairs_share_no_known_class(pair):
    seen = seen_classes(pair[0], ["train"], pair[1], "test")
    assert (seen.names, seen.text) == ((), "")


def test_data_sets_with_common_images_have_published_class_lists():
    named = [name for name, part in DATASETS.items() if part.images is not None]
    assert all((CLASS_LISTS_DIR / f"{name}.yaml").is_file() for name in named)
