"""Classes are recognised by their pixels, their names and their split folders, not only by their counts."""

import pickle

import numpy as np
import pytest
from PIL import Image

from fewshot.datasets import DATASETS
from fewshot.datasets.class_digests import class_digest, digests_of, read_digests, write_digests
from fewshot.datasets.fc100 import Fc100
from fewshot.datasets.omniglot import reduce_drawing
from fewshot.datasets.prepare import build_store
from fewshot.errors import DataError

NAMES = ["apple", "bear", "cat", "dog", "elm"]
FILE_WORDS = {"train": "train", "validation": "val", "test": "test"}


@pytest.fixture
def prepare(tmp_path):
    """Return a function that prepares a data set from a path."""

    def run(name, path, **settings):
        target = tmp_path / "stores" / str(len(list(tmp_path.glob("stores/*"))))
        return build_store(name, DATASETS[name].settings(path=str(path), **settings), tmp_path / "raw", target)

    return run


@pytest.fixture
def images(make, monkeypatch):
    """Return the images of the small FC100, whose digests are the published ones in this test."""
    images = make.images(30, 32)
    digests = {name: class_digest(images[6 * i : 6 * i + 6]) for i, name in enumerate(NAMES)}
    monkeypatch.setattr(Fc100, "class_lists", make.lists)
    monkeypatch.setattr("fewshot.datasets.cifar100.read_digests", lambda name: digests)
    return images


def findings(store):
    return store.record["provenance"]["findings"]


def split_pickles(make, images, order):
    """Return FC100 as one pickle per split, with the classes of each split numbered from 0 in the given order."""
    files = {}
    for split, names in order.items():
        data = np.concatenate([images[6 * NAMES.index(name) :][:6] for name in names])
        labels = np.repeat(np.arange(len(names)), 6).tolist()
        files[f"FC100_{FILE_WORDS[split]}.pickle"] = pickle.dumps({"data": data, "labels": labels})
    return files


def test_the_published_pixels_are_recognised_in_every_order(images, make, prepare, tmp_path):
    store = prepare("fc100", make.folder(tmp_path / "a", make.cifar100(images)))

    assert findings(store) == {
        "form": "original archive",
        "pixels": "the pixels of all 5 classes are the published ones",
    }


def test_numbered_classes_get_the_names_of_the_published_ones(images, make, prepare, tmp_path):
    numbered = split_pickles(make, images, {"train": ["dog", "apple", "bear"], "validation": ["elm"], "test": ["cat"]})

    store = prepare("fc100", make.folder(tmp_path / "a", numbered))
    original = prepare("fc100", make.folder(tmp_path / "b", make.cifar100(images)))

    assert store.split("train").class_names == ("bear", "dog", "apple")
    assert store.content_hash == original.content_hash


def test_exchanged_splits_of_numbered_classes_are_refused(images, make, prepare, tmp_path):
    numbered = split_pickles(make, images, {"train": ["dog", "apple", "bear"], "validation": ["cat"], "test": ["elm"]})
    with pytest.raises(DataError, match="has the classes of 'test', not of 'validation'"):
        prepare("fc100", make.folder(tmp_path / "a", numbered))


def test_permuted_labels_are_refused(images, make, prepare, tmp_path):
    swapped = images.copy()
    swapped[0:6], swapped[6:12] = images[6:12], images[0:6]
    with pytest.raises(DataError, match="class 'bear' has the images of the published class 'apple'"):
        prepare("fc100", make.folder(tmp_path / "a", make.cifar100(swapped)))


def test_one_replaced_image_is_refused(images, make, prepare, tmp_path):
    images[7] = 0
    with pytest.raises(DataError, match=r"class 'bear' are not the published ones \(1 such classes\)"):
        prepare("fc100", make.folder(tmp_path / "a", make.cifar100(images)))

    numbered = split_pickles(make, images, {"train": ["dog", "apple", "bear"], "validation": ["elm"], "test": ["cat"]})
    with pytest.raises(DataError, match="'class-002' are not those of any class of CIFAR-100, while 2 other"):
        prepare("fc100", make.folder(tmp_path / "b", numbered))


def test_recompressed_images_are_accepted_and_the_manifest_says_so(images, make, prepare, tmp_path, caplog):
    recompressed = {f"{NAMES[i // 6]}/{i:03d}.png": make.png(image // 2 * 2) for i, image in enumerate(images)}

    store = prepare("fc100", make.folder(tmp_path / "a", recompressed))

    assert "the pixels of no class are the published ones" in findings(store)["pixels"]
    assert "the pixels of no class" in caplog.text


def test_the_lists_of_digests_cover_the_class_lists(monkeypatch, make, prepare, tmp_path):
    for name, digests in (("cifar_fs", "cifar100"), ("fc100", "cifar100"), ("omniglot", "omniglot")):
        part = DATASETS[name]
        splits = part.load()(part.settings()).class_lists.splits
        assert {c for names in splits.values() for c in names} == read_digests(digests).keys()
        assert len(set(read_digests(digests).values())) == len(read_digests(digests))


def test_digests_are_written_as_they_are_read(images, make, prepare, tmp_path, monkeypatch):
    store = prepare("fc100", make.folder(tmp_path / "a", make.cifar100(images)))
    write_digests(store, tmp_path / "cifar100.digests.yaml")
    monkeypatch.setattr("fewshot.datasets.class_digests.CLASS_LISTS_DIR", tmp_path)

    assert read_digests("cifar100") == digests_of(store)


def drawing(i, ink=0):
    grey = np.full((105, 105), 255 - ink, np.uint8)
    grey[10 + i : 40 + i, 20:30] = ink
    return grey


def omniglot_files(make, ink=0):
    parts = {"images_background": [("Greek", 3), ("Latin", 1)], "images_evaluation": [("Tengwar", 2)]}
    return {
        f"{part}/{alphabet}/character{c + 1:02d}/{n}_{i}.png": make.png(drawing(20 * n + 2 * c + i, ink))
        for part, alphabets in parts.items()
        for n, (alphabet, count) in enumerate(alphabets)
        for c in range(count)
        for i in range(2)
    }


@pytest.fixture
def small_omniglot(monkeypatch):
    """Replace the published class lists by three small alphabets."""
    entries = {"images_per_class": 2, "train": {"Greek": 3}, "validation": {"Latin": 1}, "test": {"Tengwar": 2}}
    monkeypatch.setattr("fewshot.datasets.omniglot.read_yaml", lambda path: entries)


@pytest.mark.usefixtures("small_omniglot")
def test_inverted_drawings_of_omniglot_give_equal_content(make, prepare, tmp_path):
    published = prepare("omniglot", make.folder(tmp_path / "a", omniglot_files(make)))
    inverted = prepare("omniglot", make.folder(tmp_path / "b", omniglot_files(make, ink=255)))

    assert published.content_hash == inverted.content_hash
    assert findings(inverted)["ink"] == "white on black in the files"
    assert "ink" not in findings(published)


def test_a_reduced_drawing_has_white_ink_whatever_the_file_has():
    published, inverted = (reduce_drawing(Image.fromarray(drawing(0, ink))) for ink in (0, 255))

    np.testing.assert_array_equal(published, inverted)
    assert published.max() > 200
    assert np.median(published) == 0


@pytest.mark.usefixtures("small_omniglot")
def test_small_sets_and_strokes_of_omniglot_are_left_out(make, prepare, tmp_path):
    files = omniglot_files(make)
    given = tmp_path / "python"
    given.mkdir()
    for part in ("images_background", "images_evaluation"):
        make.zip(given / f"{part}.zip", {name: content for name, content in files.items() if name.startswith(part)})
    small = {n.replace("images_background", "images_background_small1"): c for n, c in files.items() if "Greek" in n}
    make.zip(given / "images_background_small1.zip", small)
    make.zip(given / "strokes_background.zip", {"strokes_background/Greek/character01/0_0.txt": b"START"})

    store = prepare("omniglot", given, sha256="none")

    assert store.split("train").class_sizes.tolist() == [2, 2, 2]
    assert findings(store)["left out"] == "images_background_small1, strokes_background"
