"""Parquet files of the Hugging Face Hub: the same pixels give the same store; damage is refused."""

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from fewshot.datasets import DATASETS
from fewshot.datasets import parquet as reader
from fewshot.datasets.class_lists import ClassLists
from fewshot.datasets.fc100 import Fc100
from fewshot.datasets.mini_imagenet import MiniImagenet
from fewshot.datasets.prepare import build_store
from fewshot.errors import DataError

NAMES = ["apple", "bear", "cat", "dog", "elm"]
LABELS = np.repeat(np.arange(5), 6)


@pytest.fixture
def prepare(tmp_path):
    """Return a function that prepares a data set from a path."""

    def run(name, path):
        target = tmp_path / "stores" / str(len(list(tmp_path.glob("stores/*"))))
        return build_store(name, DATASETS[name].settings(path=str(path)), tmp_path / "raw", target)

    return run


@pytest.fixture(autouse=True)
def small_lists(make, monkeypatch):
    monkeypatch.setattr(Fc100, "class_lists", make.lists)


def parquet(files, labels, *, image="img", label="fine_label", names=NAMES, rows_a_group=4):
    """Return a parquet file as on the Hub, with the names of the labels in the schema's metadata."""
    labels = pyarrow.array(labels)
    table = pyarrow.table({image: [{"bytes": file, "path": f"{i}.png"} for i, file in enumerate(files)], label: labels})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream, row_group_size=rows_a_group)
    return stream.getvalue()


def test_cifar_100_from_the_hub_equals_the_original(make, prepare, tmp_path):
    images = make.images(30, 32)
    in_test = np.arange(30) % 6 == 5
    parts = {
        f"cifar100/{name}-00000-of-00001.parquet": parquet([make.png(i) for i in images[chosen]], LABELS[chosen])
        for name, chosen in (("train", ~in_test), ("test", in_test))
    }

    store = prepare("fc100", make.folder(tmp_path / "hub", {**parts, "README.md": b"# CIFAR-100"}))

    original = prepare("fc100", make.folder(tmp_path / "original", make.cifar100(images)))
    assert store.content_hash == original.content_hash


def test_mini_imagenet_from_the_hub_leaves_out_the_extra_test_images(make, prepare, monkeypatch, tmp_path):
    """Splits within the classes are joined; the extra part `test` does not belong to the data set."""
    wordnet = {"train": ["n01532829", "n01558993"], "validation": ["n01855672"], "test": ["n01930112"]}
    monkeypatch.setattr(MiniImagenet, "class_lists", ClassLists(wordnet, images_per_class=4))
    names = [name for listed in wordnet.values() for name in listed]
    images, labels = make.images(16, 84), np.repeat(np.arange(4), 4)
    first = np.arange(16) % 4 < 3
    columns = {"image": "image", "label": "label", "names": names}
    shards = {
        "data/train-00000-of-00002.parquet": parquet([make.png(i) for i in images[first]], labels[first], **columns),
        "data/validation-00000-of-00001.parquet": parquet(
            [make.png(i) for i in images[~first]], labels[~first], **columns
        ),
        "data/test-00000-of-00001.parquet": parquet([make.png(i) for i in make.images(4, 84, 1)], range(4), **columns),
    }
    folders = {f"{names[label]}/{i}.png": make.png(images[i]) for i, label in enumerate(labels)}

    store = prepare("mini_imagenet", make.folder(tmp_path / "hub", shards))

    assert store.content_hash == prepare("mini_imagenet", make.folder(tmp_path / "a", folders)).content_hash


def test_labels_may_be_text(make, prepare, tmp_path):
    files = [make.png(image) for image in make.images(30, 32)]
    content = parquet(files, [NAMES[label] for label in LABELS], names=None)

    store = prepare("fc100", make.folder(tmp_path / "a", {"all.parquet": content}))

    assert store.split("test").class_names == ("cat",)


def test_batches_smaller_than_a_row_group_are_read(make, prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "ROWS_AT_ONCE", 2)
    files = [make.png(image) for image in make.images(30, 32)]

    store = prepare("fc100", make.folder(tmp_path / "a", {"all.parquet": parquet(files, LABELS)}))

    assert len(store.split("train")) == 18


DAMAGE = {
    "truncated": (lambda png: parquet(png, LABELS)[:-20], "not a complete parquet file"),
    "changed in the middle": (
        lambda png: flipped(parquet(png, LABELS)),
        "parquet file|not a readable image|cannot read",
    ),
    "no images": (lambda png: parquet(png, LABELS, image="text"), "none of the columns image, img"),
    "no labels": (lambda png: parquet(png, LABELS, label="coarse_label"), "none of the columns fine_label, label"),
    "labels without names": (lambda png: parquet(png, LABELS, names=None), "lacks 5 of 5 classes"),
    "a label too many": (lambda png: parquet(png, LABELS, names=NAMES[:4]), r"labels \[4\] have no class name"),
    "a label missing": (lambda png: parquet(png, [None, *LABELS[1:].tolist()]), "1 labels .* are missing"),
    "labels that are not integers": (lambda png: parquet(png, LABELS / 2), "labels are float64"),
    "paths in place of images": (lambda png: parquet([None] * 30, LABELS), "is NoneType, expected an image file"),
    "no image files": (lambda png: parquet([b"<html>"] * 30, LABELS), "not a readable image"),
    "too few images": (lambda png: parquet(png[:-1], LABELS[:-1]), "class 'elm' has 5 images, expected 6"),
    "another data set": (lambda png: parquet(png, LABELS, names=list("abcde")), "lacks 5 of 5 classes"),
    "not parquet": (lambda png: b"PAR1" + bytes(100) + b"PAR1", "not a complete parquet file"),
    "empty": (lambda png: b"", "not a complete parquet file"),
}


def flipped(content):
    middle = len(content) // 3
    return content[:middle] + bytes(byte ^ 255 for byte in content[middle : middle + 400]) + content[middle + 400 :]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused(kind, make, prepare, tmp_path):
    spoil, reason = DAMAGE[kind]
    files = [make.png(image) for image in make.images(30, 32)]
    given = make.folder(tmp_path / "given", {"all.parquet": spoil(files)})

    with pytest.raises(DataError, match=reason):
        prepare("fc100", given)
    assert not list(tmp_path.glob("stores/[0-9]*"))


def test_excessive_row_group_is_refused_before_it_is_read(make, prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_GROUP_BYTES", 100)
    files = [make.png(image) for image in make.images(30, 32)]

    with pytest.raises(DataError, match=r"a row group declares .* at most 100 are read"):
        prepare("fc100", make.folder(tmp_path / "a", {"all.parquet": parquet(files, LABELS)}))
