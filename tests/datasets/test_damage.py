"""Damaged sources and stores: each kind of damage is refused with a message that says what to do."""

import json
import pickle
import shutil

import numpy as np
import pytest

from fewshot.datasets import DATASETS
from fewshot.datasets.class_lists import ClassLists
from fewshot.datasets.fc100 import Fc100
from fewshot.datasets.mini_imagenet import MiniImagenet
from fewshot.datasets.prepare import build_store
from fewshot.datasets.store import SplitPlan, open_store, write_store
from fewshot.datasets.tiered_imagenet import TieredImagenet
from fewshot.errors import DataError, ResourceError

ROOT = "cifar-100-python/"


def changed(make, name, **entries):
    """Return one of the small CIFAR-100 files with some entries replaced; None removes one."""
    content = pickle.loads(make.cifar100()[ROOT + name], encoding="latin1") | entries
    return pickle.dumps({key: value for key, value in content.items() if value is not None})


def data_of(make, name="train"):
    return np.asarray(pickle.loads(make.cifar100()[ROOT + name], encoding="latin1")["data"])


LABELS = [label for label in range(5) for _ in range(5)]
CIFAR_DAMAGE = {
    "train is missing": (lambda make: {"train": None}, "not a known form of CIFAR-100"),
    "meta is missing": (lambda make: {"meta": None}, "not a known form of CIFAR-100"),
    "train is truncated": (lambda make: {"train": make.cifar100()[ROOT + "train"][:-5000]}, "fetch it again"),
    "train is empty": (lambda make: {"train": b""}, "train: ends early"),
    "train is text": (lambda make: {"train": b"404 not found"}, "train.*fetch it again"),
    "no data": (lambda make: {"train": changed(make, "train", data=None)}, "none of the keys data"),
    "no labels": (lambda make: {"train": changed(make, "train", fine_labels=None)}, "none of the keys fine_labels"),
    "a list, no dictionary": (lambda make: {"train": pickle.dumps([1, 2])}, "found list"),
    "one label short": (
        lambda make: {"train": changed(make, "train", fine_labels=LABELS[1:])},
        "25 images but 24 labels",
    ),
    "labels beyond the names": (
        lambda make: {"train": changed(make, "train", fine_labels=[label + 1 for label in LABELS])},
        "have no class name",
    ),
    "labels are texts": (lambda make: {"train": changed(make, "train", fine_labels=["a"] * 25)}, "list of integers"),
    "labels are nested": (lambda make: {"train": changed(make, "train", fine_labels=[[1]] * 25)}, "list of integers"),
    "one wrong label": (
        lambda make: {"train": changed(make, "train", fine_labels=[1, *LABELS[1:]])},
        "has (5|7) images, expected 6",
    ),
    "all images of one class": (
        lambda make: {"train": changed(make, "train", fine_labels=[0] * 25)},
        "expected 6",
    ),
    "float images": (lambda make: {"train": changed(make, "train", data=data_of(make) / 255)}, "expected uint8"),
    "images of another size": (lambda make: {"train": changed(make, "train", data=data_of(make)[:, :768])}, "3072"),
    "one image short": (
        lambda make: {"train": changed(make, "train", data=data_of(make)[:24])},
        "24 images but 25 labels",
    ),
    "test is the train file": (lambda make: {"test": make.cifar100()[ROOT + "train"]}, "has 10 images, expected 6"),
    "test has no images": (
        lambda make: {"test": changed(make, "test", data=np.zeros((0, 3072), np.uint8), fine_labels=[])},
        "list of integers|expected 6",
    ),
    "a class name is missing": (
        lambda make: {"meta": changed(make, "meta", fine_label_names=["apple", "bear", "cat", "dog", "fish"])},
        "given/cifar-100-python lacks 1 of 5 classes: elm",
    ),
    "names of other labels": (
        lambda make: {"meta": changed(make, "meta", fine_label_names=None)},
        "none of the keys fine_label_names",
    ),
}


@pytest.mark.parametrize("kind", CIFAR_DAMAGE)
def test_damaged_cifar_100_is_refused(kind, make, monkeypatch, tmp_path):
    monkeypatch.setattr(Fc100, "class_lists", make.lists)
    damage, reason = CIFAR_DAMAGE[kind]
    files = make.cifar100() | {ROOT + name: content for name, content in damage(make).items()}
    make.folder(tmp_path / "given", {name: content for name, content in files.items() if content is not None})

    with pytest.raises(DataError, match=reason):
        build_store("fc100", DATASETS["fc100"].settings(path=str(tmp_path / "given")), tmp_path, tmp_path / "store")

    assert not (tmp_path / "store").exists()


MINI = ClassLists({"train": ["n00000001", "n00000002"], "validation": ["n00000003"], "test": ["n00000004"]}, 4)


def mini_files(make):
    """Return by file name the contents of the three pickles."""
    return {
        f"mini-imagenet-cache-{split}.pkl": {
            "image_data": make.images(4 * len(names), 84, len(names)),
            "class_dict": {name: list(range(4 * i, 4 * i + 4)) for i, name in enumerate(names)},
        }
        for split, names in MINI.splits.items()
    }


def cut(files, split, **entries):
    files[f"mini-imagenet-cache-{split}.pkl"] |= entries


def drop(files, split):
    del files[f"mini-imagenet-cache-{split}.pkl"]


def swap(files):
    a, b = "mini-imagenet-cache-validation.pkl", "mini-imagenet-cache-test.pkl"
    files[a], files[b] = files[b], files[a]


TRAIN = {"n00000001": [0, 1, 2, 3], "n00000002": [4, 5, 6, 7]}
MINI_DAMAGE = {
    "a split is missing": (lambda make, f: drop(f, "validation"), "split 'validation' is missing; .*fetch all files"),
    "splits are swapped": (lambda make, f: swap(f), "the files are swapped"),
    "two files of one split": (
        lambda make, f: f.update({"copy/mini-imagenet-cache-train.pkl": f["mini-imagenet-cache-train.pkl"]}),
        "both claim to be split 'train'; remove one",
    ),
    "a class is missing": (
        lambda make, f: cut(f, "train", image_data=make.images(4, 84), class_dict={"n00000001": [0, 1, 2, 3]}),
        "1 classes are missing",
    ),
    "an unknown class": (
        lambda make, f: cut(f, "train", class_dict={"n00000001": [0, 1, 2, 3], "n09999999": [4, 5, 6, 7]}),
        "1 do not belong there",
    ),
    "an empty class": (
        lambda make, f: cut(f, "train", class_dict={"n00000001": list(range(8)), "n00000002": []}),
        "1 classes are missing",
    ),
    "uneven classes": (
        lambda make, f: cut(f, "train", class_dict={"n00000001": list(range(5)), "n00000002": [5, 6, 7]}),
        "has 5 images, expected 4",
    ),
    "an image in two classes": (
        lambda make, f: cut(f, "train", class_dict={**TRAIN, "n00000002": [3, 5, 6, 7]}),
        "is in the classes",
    ),
    "an image in no class": (
        lambda make, f: cut(f, "train", class_dict={**TRAIN, "n00000002": [5, 6, 7]}),
        "image 4 is in no class",
    ),
    "an image that does not exist": (
        lambda make, f: cut(f, "train", class_dict={**TRAIN, "n00000002": [4, 5, 6, 99]}),
        "lists image 99 of 8",
    ),
    "class_dict is a list": (lambda make, f: cut(f, "train", class_dict=[1]), "class_dict is list"),
    "images of 80 pixels": (lambda make, f: cut(f, "test", image_data=make.images(4, 80)), r"\(84, 84, 3\)"),
    "grey images": (
        lambda make, f: cut(f, "test", image_data=make.images(4, 84)[..., 0]),
        r"expected uint8 \(N, H, W, 3\)",
    ),
    "images as float": (lambda make, f: cut(f, "test", image_data=make.images(4, 84) / 255), "expected uint8"),
    "channels first": (
        lambda make, f: cut(f, "test", image_data=make.images(4, 84).transpose(0, 3, 1, 2)),
        "expected uint8",
    ),
}


@pytest.mark.parametrize("kind", MINI_DAMAGE)
def test_damaged_mini_imagenet_is_refused(kind, make, monkeypatch, tmp_path):
    monkeypatch.setattr(MiniImagenet, "class_lists", MINI)
    damage, reason = MINI_DAMAGE[kind]
    files = mini_files(make)
    damage(make, files)
    make.folder(tmp_path / "given", {name: pickle.dumps(content) for name, content in files.items()})
    settings = DATASETS["mini_imagenet"].settings(path=str(tmp_path / "given"))

    with pytest.raises(DataError, match=reason):
        build_store("mini_imagenet", settings, tmp_path, tmp_path / "store")

    assert not (tmp_path / "store").exists()


TIERED = ClassLists({"train": ["a"], "validation": ["b"], "test": ["c"]})


def tiered_files(folder, make):
    for word in ("train", "val", "test"):
        (folder / f"{word}_labels.pkl").write_bytes(pickle.dumps({"labels": [0] * 3}))
        np.savez(folder / f"{word}_images.npz", images=make.images(3, 84))


def shorten(path, count):
    path.write_bytes(path.read_bytes()[:count])


TIERED_DAMAGE = {
    "npz truncated": (lambda make, folder: shorten(folder / "train_images.npz", 40_000), "fetch it again"),
    "npz under another key": (
        lambda make, f: np.savez(f / "train_images.npz", x=make.images(3, 84)),
        "expected 'images.npy'",
    ),
    "npz of floats": (
        lambda make, f: np.savez(f / "val_images.npz", images=make.images(3, 84) / 255),
        "expected uint8",
    ),
    "npz of objects": (lambda make, f: np.savez(f / "val_images.npz", images=np.array([{}], object)), "expected uint8"),
    "npz shorter than labels": (lambda make, f: np.savez(f / "test_images.npz", images=make.images(2, 84)), "3 labels"),
    "labels missing": (lambda make, f: (f / "val_labels.pkl").unlink(), "split 'validation' is missing"),
    "arrays missing": (lambda make, f: (f / "val_images.npz").unlink(), "split 'validation' is missing"),
    "more classes than the split has": (
        lambda make, f: (f / "val_labels.pkl").write_bytes(pickle.dumps({"labels": [0, 1, 2]})),
        "3 classes, split 'validation' has 1; are the files of two splits swapped",
    ),
}


@pytest.mark.parametrize("kind", TIERED_DAMAGE)
def test_damaged_tiered_imagenet_is_refused(kind, make, monkeypatch, tmp_path):
    monkeypatch.setattr(TieredImagenet, "class_lists", TIERED)
    damage, reason = TIERED_DAMAGE[kind]
    (tmp_path / "given").mkdir()
    tiered_files(tmp_path / "given", make)
    damage(make, tmp_path / "given")
    settings = DATASETS["tiered_imagenet"].settings(path=str(tmp_path / "given"))

    with pytest.raises(DataError, match=reason):
        build_store("tiered_imagenet", settings, tmp_path, tmp_path / "store")


def test_published_number_of_images_of_a_split_is_checked(make, monkeypatch, tmp_path):
    lists = ClassLists(TIERED.splits, images_per_split={"train": 3, "validation": 3, "test": 4})
    monkeypatch.setattr(TieredImagenet, "class_lists", lists)
    (tmp_path / "given").mkdir()
    tiered_files(tmp_path / "given", make)

    with pytest.raises(DataError, match="split 'test': 3 images, expected 4"):
        build_store(
            "tiered_imagenet",
            DATASETS["tiered_imagenet"].settings(path=str(tmp_path / "given")),
            tmp_path,
            tmp_path / "store",
        )


def record(store):
    return json.loads((store / "store.json").read_text())


def write_record(store, **entries):
    (store / "store.json").write_text(json.dumps(record(store) | entries))


def edit_split(store, **entries):
    splits = record(store)["splits"]
    splits["train"] |= entries
    write_record(store, splits=splits)


def flip_a_pixel(store):
    content = bytearray((store / "train.npy").read_bytes())
    content[-1] ^= 1
    (store / "train.npy").write_bytes(bytes(content))


def append(path):
    path.write_bytes(path.read_bytes() + b"x")


STORE_DAMAGE = {
    "no folder": lambda store: shutil.rmtree(store),
    "no record": lambda store: (store / "store.json").unlink(),
    "record truncated": lambda store: shorten(store / "store.json", 100),
    "record is a list": lambda store: (store / "store.json").write_text("[]"),
    "record of another version": lambda store: write_record(store, format=99),
    "record without splits": lambda store: write_record(store, splits={}),
    "record with a malformed split": lambda store: write_record(store, splits={"train": 3}),
    "content hash changed": lambda store: write_record(store, content_hash="0" * 64),
    "class sizes changed": lambda store: edit_split(store, class_sizes=[5, 7]),
    "class renamed": lambda store: edit_split(store, class_names=["x", "y"]),
    "array missing": lambda store: (store / "train.npy").unlink(),
    "array truncated": lambda store: shorten(store / "train.npy", 500),
    "array empty": lambda store: (store / "train.npy").write_bytes(b""),
    "array too long": lambda store: append(store / "train.npy"),
    "array of another type": lambda store: np.save(store / "train.npy", np.zeros((12, 8, 8, 3), np.float32)),
    "array of another shape": lambda store: np.save(store / "train.npy", np.zeros((12, 8, 8, 1), np.uint8)),
    "array in other order": lambda store: np.save(
        store / "train.npy", np.asfortranarray(np.zeros((12, 8, 8, 3), np.uint8))
    ),
    "array is a pickle": lambda store: (store / "train.npy").write_bytes(pickle.dumps([1])),
    "arrays swapped": lambda store: shutil.copy(store / "test.npy", store / "train.npy"),
    "sources missing": lambda store: (store / "train.sources.txt").unlink(),
    "a source id changed": lambda store: (store / "test.sources.txt").write_text("5\n1\n2\n3\n4\n"),
    "provenance changed": lambda store: write_record(store, provenance={"files": []}),
    "a pixel changed": flip_a_pixel,
}


def plans(make, **changes):
    sizes = {"train": [6, 6], "validation": [4], "test": [5]}
    for seed, (name, counts) in enumerate(sizes.items()):
        images = make.images(sum(counts), 8, seed)
        rows = [(label, images[row], str(row)) for row, label in enumerate(np.repeat(np.arange(len(counts)), counts))]
        yield SplitPlan(name, [f"{name} {i}" for i in range(len(counts))], counts, rows)


@pytest.mark.parametrize("kind", STORE_DAMAGE)
def test_damaged_store_is_refused(kind, make, tmp_path):
    store = tmp_path / "store"
    write_store(store, "toy", (8, 8, 3), plans(make))
    STORE_DAMAGE[kind](store)

    with pytest.raises(DataError, match=r"prepare"):
        open_store(store)


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b""), lambda file: flip_a_pixel(file.parent)])
def test_damaged_store_is_rebuilt(damage, make, tmp_path, capsys):
    files = {f"{name}/{i}.png": make.png(make.images(1, 9, i)[0]) for name in "abc" for i in range(2)}
    settings = DATASETS["folder"].settings(path=str(make.folder(tmp_path / "given", files)), image_size=9)
    first = build_store("folder", settings, tmp_path, tmp_path / "store")
    before = (tmp_path / "store" / "train.npy").read_bytes()
    damage(tmp_path / "store" / "train.npy")

    assert build_store("folder", settings, tmp_path, tmp_path / "store").content_hash == first.content_hash
    assert (tmp_path / "store" / "train.npy").read_bytes() == before
    assert "building the store again: " in capsys.readouterr().err


PLAN_FAULTS = {
    "image missing": (["a"], [2], [(0, "image", "x")], "has 1 images, expected 2"),
    "image too many": (["a"], [1], [(0, "image", "x")] * 2, "more than the expected 1"),
    "label too high": (["a"], [1], [(1, "image", "x")], "outside 0 .. 0"),
    "label negative": (["a"], [1], [(-1, "image", "x")], "outside 0 .. 0"),
    "class twice": (["a", "a"], [1, 1], [], "repeated class names: a"),
    "class without images": (["a", "b"], [1, 0], [], "'b' has no images"),
    "sizes missing": (["a", "b"], [1], [], "2 class names for 1"),
    "float image": (["a"], [1], [(0, "float", "x")], "expected uint8"),
    "grey image": (["a"], [1], [(0, "grey", "x")], "expected uint8 of shape"),
}


@pytest.mark.parametrize("kind", PLAN_FAULTS)
def test_inconsistent_plan_is_refused(kind, make, tmp_path):
    names, sizes, rows, reason = PLAN_FAULTS[kind]
    image = make.images(1, 8)[0]
    forms = {"image": image, "float": image / 255, "grey": image[..., 0]}
    plan = SplitPlan("train", names, sizes, [(label, forms[form], source) for label, form, source in rows])

    with pytest.raises(DataError, match=reason):
        write_store(tmp_path / "store", "toy", (8, 8, 3), [plan])

    assert list(tmp_path.iterdir()) == []


def test_class_in_two_splits_is_refused(make, tmp_path):
    image = make.images(1, 8)[0]
    same = [SplitPlan(split, ["a"], [1], [(0, image, "x")]) for split in ("train", "validation", "test")]
    with pytest.raises(DataError, match="'a' is in the splits 'train' and 'validation'"):
        write_store(tmp_path / "store", "toy", (8, 8, 3), same)


def test_missing_split_is_refused(make, tmp_path):
    with pytest.raises(DataError, match="split 'test' is missing"):
        write_store(tmp_path / "store", "toy", (8, 8, 3), list(plans(make))[:2])


def test_full_disk_is_reported_before_writing(make, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "fewshot.datasets.split_files.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10)
    )
    with pytest.raises(ResourceError, match="free some space"):
        write_store(tmp_path / "store", "toy", (8, 8, 3), plans(make))
    assert list(tmp_path.iterdir()) == []


def test_source_that_fails_midway_leaves_an_existing_store_unchanged(make, tmp_path):
    existing = write_store(tmp_path / "store", "toy", (8, 8, 3), plans(make))

    def failing():
        yield from list(plans(make))[:1]
        raise DataError("the source fails")

    with pytest.raises(DataError, match="the source fails"):
        write_store(tmp_path / "store", "toy", (8, 8, 3), failing())
    assert open_store(tmp_path / "store").content_hash == existing.content_hash
