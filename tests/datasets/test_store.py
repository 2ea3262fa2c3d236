"""The store: what is written is what is read, in an order that depends only on the pixels."""

import subprocess
import sys

import numpy as np
import pytest

from fewshot.datasets.contact_sheet import draw_contact_sheet
from fewshot.datasets.store import SplitPlan, open_store, write_store
from fewshot.errors import DataError

SIZES = {"train": [5, 3], "validation": [2], "test": [4]}


def plans(make, order=1, sizes=SIZES):
    for seed, (name, counts) in enumerate(sizes.items()):
        images = make.images(sum(counts), 8, seed)
        labels = np.repeat(np.arange(len(counts)), counts)
        rows = [(label, images[row], f"{name}/{row}") for row, label in enumerate(labels)][::order]
        yield SplitPlan(name, [f"{name} {i}" for i in range(len(counts))], counts, rows)


@pytest.fixture
def store(make, tmp_path):
    return write_store(tmp_path / "store", "toy", (8, 8, 3), plans(make))


def test_images_are_sorted_by_class_and_keep_their_source(store, make):
    split, images = store.split("train"), make.images(8, 8, 0)

    assert split.labels.tolist() == [0] * 5 + [1] * 3
    assert split.class_starts.tolist() == [0, 5]
    assert len(split) == 8
    for row, source in enumerate(split.source_ids):
        number = int(source.partition("/")[2])
        np.testing.assert_array_equal(split.images[row], images[number])
        assert (number >= 5) == (split.labels[row] == 1)


def test_content_does_not_depend_on_the_order_of_the_source(make, store, tmp_path):
    other = write_store(tmp_path / "other", "toy", (8, 8, 3), plans(make, order=-1))

    assert other.content_hash == store.content_hash
    assert (tmp_path / "other" / "train.npy").read_bytes() == (tmp_path / "store" / "train.npy").read_bytes()


def test_content_hash_depends_on_every_pixel_and_name(make, store, tmp_path):
    changed = []
    for i, plan in enumerate(plans(make)):
        rows = list(plan.images)
        if i == 2:
            rows[0] = (rows[0][0], rows[0][1] ^ 1, rows[0][2])
        changed.append(SplitPlan(plan.name, plan.class_names, plan.class_sizes, rows))
    renamed = [
        SplitPlan(plan.name, [f"{name}!" for name in plan.class_names], plan.class_sizes, plan.images)
        for plan in plans(make)
    ]
    hashes = {
        write_store(tmp_path / str(i), "toy", (8, 8, 3), splits).content_hash
        for i, splits in enumerate((changed, renamed))
    }
    assert len({*hashes, store.content_hash}) == 3


def test_images_are_read_only(store):
    with pytest.raises(ValueError, match="read-only"):
        store.split("train").images[0] = 0


def test_trainval_is_train_followed_by_validation(store):
    union, train, validation = (store.split(name) for name in ("trainval", "train", "validation"))

    assert union.class_names == train.class_names + validation.class_names
    assert union.class_sizes.tolist() == [5, 3, 2]
    assert union.images.shape == (10, 8, 8, 3)
    assert union.source_ids == train.source_ids + validation.source_ids
    both = np.concatenate([train.images, validation.images])
    for rows in (np.array([9, 0, 8, 3]), np.array([[1, 9], [2, 8]]), slice(6, 10), slice(None), -1, 4):
        np.testing.assert_array_equal(union.images[rows], both[rows])


def test_unknown_split_is_refused(store):
    with pytest.raises(DataError, match="allowed: train, validation, test, trainval"):
        store.split("val")


def test_verification_accepts_an_intact_store(store):
    assert open_store(store.directory).content_hash == store.content_hash


def test_duplicates_within_and_across_splits_are_reported(make, tmp_path):
    image, other = make.images(2, 8)
    splits = [
        SplitPlan("train", ["a"], [3], [(0, image, "a1"), (0, image, "a2"), (0, other, "a3")]),
        SplitPlan("validation", ["b"], [1], [(0, image ^ 1, "b1")]),
        SplitPlan("test", ["c"], [1], [(0, other, "c1")]),
    ]

    duplicates = write_store(tmp_path / "store", "toy", (8, 8, 3), splits).record["duplicates"]

    assert duplicates["within"] == {"train": 1, "validation": 0, "test": 0}
    assert duplicates["across"] == {"train/validation": 0, "train/test": 1, "validation/test": 0}
    assert duplicates["examples"] == [["train: a3", "test: c1"]]


def test_contact_sheet_is_byte_identical_for_the_same_store(store, tmp_path):
    draw_contact_sheet(store, tmp_path / "a.png")
    draw_contact_sheet(store, tmp_path / "b.png")

    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.png*")) == ["a.png", "b.png"]


def test_registry_imports_no_numpy_torch_or_pillow():
    code = "import sys, fewshot.datasets; print([m for m in ('numpy', 'torch', 'PIL', 'requests') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
