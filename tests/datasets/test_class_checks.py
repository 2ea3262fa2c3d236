"""Classes are recognised by their pixels, their names and their split folders, not only by their counts."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from fewshot.datasets import DATASETS
from fewshot.datasets.class_digests import class_digest, digests_of, read_digests, write_digests
from fewshot.datasets.class_lists import CLASS_LISTS_DIR, ClassLists, read_class_lists, read_yaml
from fewshot.datasets.cub import Cub
from fewshot.datasets.fc100 import Fc100
from fewshot.datasets.mini_imagenet import MiniImagenet
from fewshot.datasets.omniglot import reduce_drawing
from fewshot.datasets.prepare import build_store
from fewshot.datasets.tiered_imagenet import NAMES_FILE, TieredImagenet
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


TIERED = ClassLists({"train": ["n01532829", "n01558993"], "validation": ["n03100240"], "test": ["n01443537"]})
WORDS = {
    "train": ["robin, American robin, Turdus migratorius", "house finch, linnet, Carpodacus mexicanus"],
    "validation": ["convertible"],
    "test": ["goldfish, Carassius auratus"],
}


def tiered_images(make):
    """Return the images of each split, three per class, in the order of `WORDS`."""
    return {split: make.images(3 * len(words), 84, i) for i, (split, words) in enumerate(WORDS.items())}


def tiered_labels(words=WORDS):
    return {
        f"{FILE_WORDS[split]}_labels.pkl": pickle.dumps(
            {
                "label_specific": np.repeat(np.arange(len(names)), 3).astype(np.int32),
                "label_specific_str": names,
                "label_general": np.zeros(3 * len(names), np.int32),
            }
        )
        for split, names in words.items()
    }


def arrays(images):
    files = {}
    for split, block in images.items():
        stream = io.BytesIO()
        np.savez(stream, images=block)
        files[f"{FILE_WORDS[split]}_images.npz"] = stream.getvalue()
    return files


def png_pickles(make, images):
    return {
        f"{FILE_WORDS[split]}_images_png.pkl": pickle.dumps([np.frombuffer(make.png(i), np.uint8) for i in block])
        for split, block in images.items()
    }


def in_bgr(images):
    return {split: block[..., ::-1] for split, block in images.items()}


def class_folders(make, images):
    wordnet_ids = {"train": ["n01558993", "n01532829"], "validation": ["n03100240"], "test": ["n01443537"]}
    return {
        f"{wordnet_ids[split][i // 3]}/{i}.png": make.png(image)
        for split, block in images.items()
        for i, image in enumerate(block)
    }


@pytest.fixture
def tiered(monkeypatch, make):
    monkeypatch.setattr(TieredImagenet, "class_lists", TIERED)
    return tiered_images(make)


def test_arrays_of_tiered_imagenet_are_bgr_and_encoded_images_rgb(tiered, make, prepare, tmp_path):
    forms = {
        "folders": class_folders(make, tiered),
        "pickles": tiered_labels() | png_pickles(make, tiered),
        "arrays": tiered_labels() | arrays(in_bgr(tiered)),
    }
    stores = {form: prepare("tiered_imagenet", make.folder(tmp_path / form, files)) for form, files in forms.items()}

    assert len({store.content_hash for store in stores.values()}) == 1
    assert stores["arrays"].split("train").class_names == ("n01532829", "n01558993")
    assert findings(stores["arrays"])["form"] == "arrays (.npz)"
    assert findings(stores["arrays"])["channel order"] == "bgr (usual for this form); stored as rgb"
    assert findings(stores["pickles"])["channel order"] == "rgb (usual for this form); stored as rgb"


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_channel_order_can_be_set(order, tiered, make, prepare, tmp_path):
    given = tiered if order == "rgb" else in_bgr(tiered)
    files = {"arrays": arrays(given), "pickles": png_pickles(make, given)}
    usual = prepare("tiered_imagenet", make.folder(tmp_path / "usual", tiered_labels() | png_pickles(make, tiered)))

    for form, images in files.items():
        path = make.folder(tmp_path / form, tiered_labels() | images)
        store = prepare("tiered_imagenet", path, channel_order=order)
        assert store.content_hash == usual.content_hash
        assert findings(store)["channel order"] == f"{order} (set by the user); stored as rgb"


def test_encoded_images_are_preferred_to_arrays_of_the_same_images(tiered, make, prepare, tmp_path):
    both = tiered_labels() | png_pickles(make, tiered)
    stores = [
        prepare("tiered_imagenet", make.folder(tmp_path / "bgr", both | arrays(in_bgr(tiered)))),
        prepare("tiered_imagenet", make.folder(tmp_path / "rgb", both | arrays(tiered))),
    ]

    assert stores[0].content_hash == stores[1].content_hash
    assert findings(stores[0])["form"] == "PNG files in one pickle per split"


def test_arrays_are_read_if_the_pickles_do_not_fit_in_memory(tiered, make, prepare, tmp_path, monkeypatch):
    both = tiered_labels() | png_pickles(make, tiered) | arrays(in_bgr(tiered))
    expected = prepare("tiered_imagenet", make.folder(tmp_path / "a", both))
    monkeypatch.setattr("fewshot.datasets.tiered_imagenet.total_memory", lambda: 1000)

    store = prepare("tiered_imagenet", make.folder(tmp_path / "b", both))

    assert findings(store)["form"] == "arrays (.npz)"
    assert store.content_hash == expected.content_hash


def test_two_forms_of_different_images_are_refused(tiered, make, prepare, tmp_path):
    other = {split: block // 2 for split, block in tiered.items()}
    with pytest.raises(DataError, match=r"image 0 of .*train_images_png\.pkl differs from that of .*npz"):
        prepare(
            "tiered_imagenet",
            make.folder(tmp_path / "a", tiered_labels() | png_pickles(make, tiered) | arrays(other)),
        )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (WORDS | {"test": ["gold fish"]}, r"names 'gold fish', which is not a class .* Did you mean 'goldfish'"),
        (WORDS | {"validation": WORDS["test"], "test": WORDS["validation"]}, "has the classes of 'test'"),
        (WORDS | {"validation": ["jeep, landrover"]}, r"1 classes are missing \(n03100240\)"),
        (WORDS | {"train": WORDS["train"][:1]}, r"labels \[1\] have no class name"),
    ],
)
def test_class_names_of_tiered_imagenet_are_checked(words, reason, tiered, make, prepare, tmp_path):
    labels = tiered_labels() | {
        f"{FILE_WORDS[split]}_labels.pkl": pickle.dumps(
            {"label_specific": np.repeat(np.arange(len(WORDS[split])), 3), "label_specific_str": names}
        )
        for split, names in words.items()
    }
    with pytest.raises(DataError, match=reason):
        prepare("tiered_imagenet", make.folder(tmp_path / "a", labels | png_pickles(make, tiered)))


def test_every_class_of_tiered_imagenet_has_a_name_of_its_own():
    names = read_yaml(NAMES_FILE)
    classes = read_class_lists(CLASS_LISTS_DIR / "tiered_imagenet.yaml").splits.values()

    assert names.keys() == {name for split in classes for name in split}
    assert len(set(names.values())) == 608


@pytest.mark.parametrize("name", ["tiered_imagenet", "mini_imagenet"])
def test_photographs_that_are_bluer_than_red_are_reported(name, make, prepare, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(TieredImagenet, "class_lists", TIERED)
    monkeypatch.setattr(MiniImagenet, "class_lists", TIERED)
    sunset = {split: block // np.array([1, 1, 2], np.uint8) for split, block in tiered_images(make).items()}

    usual = prepare(name, make.folder(tmp_path / "a", class_folders(make, sunset)))
    exchanged = prepare(name, make.folder(tmp_path / "b", class_folders(make, in_bgr(sunset))))

    assert "colours" not in findings(usual)
    assert "blue exceeds red by 6" in findings(exchanged)["colours"]
    assert "red and blue are probably exchanged" in caplog.text


CUB_CLASSES = {"train": ["001.A", "003.C"], "validation": ["002.B"], "test": ["004.D"]}


def bird_files(make, folders):
    """Return two images of each class in folders like "val/002.B"."""
    return {f"{folder}/{i}.png": make.png(make.images(1, 90, i)[0]) for folder in folders for i in range(2)}


@pytest.mark.parametrize(
    ("folders", "warning"),
    [
        (["train/001.A", "train/003.C", "val/002.B", "test/004.D"], None),
        (["base/001.A", "base/003.C", "val/002.B", "novel/004.D"], None),
        (["train/001.A", "train/003.C", "train/002.B", "train/004.D"], None),
        (
            ["train/001.A", "train/002.B", "val/003.C", "test/004.D"],
            "(2 classes): '003.C' is in val, but is a class of",
        ),
        (
            ["x/Train/001.A", "x/Test/001.A", "x/Train/002.B", "x/Train/003.C", "x/Train/004.D"],
            "'001.A' is in Test and",
        ),
    ],
)
def test_split_folders_that_contradict_the_lists_are_reported(
    folders, warning, make, prepare, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(Cub, "class_lists", ClassLists(CUB_CLASSES))

    store = prepare("cub", make.folder(tmp_path / "a", bird_files(make, folders)))

    assert store.split("train").class_names == ("001.A", "003.C")
    if warning is None:
        assert "split folders" not in findings(store)
    else:
        assert warning in findings(store)["split folders"]
        assert warning in caplog.text


def test_split_folders_of_wordnet_ids_are_compared_too(tiered, make, prepare, tmp_path):
    files = {
        f"{'val' if name.startswith('n0155') else 'test'}/{name}": content
        for name, content in class_folders(make, tiered).items()
    }
    store = prepare("tiered_imagenet", make.folder(tmp_path / "a", files))

    assert "'n01532829' is in test, but is a class of train" in findings(store)["split folders"]


def test_the_class_train_of_cifar_is_no_split_folder(make, prepare, tmp_path, monkeypatch):
    lists = ClassLists({"train": ["train"], "validation": ["bear"], "test": ["cat"]})
    monkeypatch.setattr(Fc100, "class_lists", lists)
    files = {
        f"data/{c}/{i}.png": make.png(make.images(1, 32, i)[0]) for c in ("train", "bear", "cat") for i in range(2)
    }

    assert "split folders" not in findings(prepare("fc100", make.folder(tmp_path / "a", files)))
