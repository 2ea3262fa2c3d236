"""Every data set from every form in which it is distributed; the same pixels give the same store."""

import io
import pickle
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from PIL import Image

from fewshot.datasets import DATASETS, SPLITS
from fewshot.datasets.base import Dataset
from fewshot.datasets.class_lists import ClassLists
from fewshot.datasets.cub import Cub
from fewshot.datasets.fc100 import Fc100
from fewshot.datasets.mini_imagenet import MiniImagenet
from fewshot.datasets.omniglot import reduce_drawing
from fewshot.datasets.prepare import build_store
from fewshot.datasets.tiered_imagenet import TieredImagenet
from fewshot.errors import DataError, ResourceError

WORDNET = {"train": ["n01532829", "n01558993"], "validation": ["n01855672"], "test": ["n01930112"]}
WORDNET_LISTS = ClassLists(WORDNET, images_per_class=4)
FILE_WORDS = {"train": "train", "validation": "val", "test": "test"}


@pytest.fixture
def prepare(tmp_path):
    """Return a function that prepares a data set from a path."""

    def run(name, path, **settings):
        target = tmp_path / "stores" / str(len(list(tmp_path.glob("stores/*"))))
        return build_store(name, DATASETS[name].settings(path=str(path), **settings), tmp_path / "raw", target)

    return run


def pixels(store, split):
    return np.asarray(store.split(split).images)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tar.bz2"])
def test_original_cifar_100_is_read(kind, make, prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(Fc100, "class_lists", make.lists)
    images = make.images(30, 32)

    store = prepare("fc100", make.writers[kind](tmp_path, make.cifar100(images)))

    assert store.split("train").class_names == ("bear", "dog", "apple")
    assert store.split("train").class_sizes.tolist() == [6, 6, 6]
    rows = {image.tobytes() for image in images[6:12]}
    assert {image.tobytes() for image in store.split("train").images[:6]} == rows


def test_archive_next_to_its_extracted_files_is_ignored(make, prepare, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(Fc100, "class_lists", make.lists)
    given = make.folder(tmp_path / "given", make.cifar100())
    make.tar(given / "cifar-100-python.tar.gz", {"readme": b"x"}, "w:gz")

    assert len(prepare("fc100", given, sha256="none").split("train")) == 18
    assert "the archives next to them are not: cifar-100-python.tar.gz" in caplog.text


def test_forms_of_cifar_with_equal_pixels_give_equal_content(make, prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(Fc100, "class_lists", make.lists)
    images = make.images(30, 32)
    names = ["apple", "bear", "cat", "dog", "elm"]
    folders = {f"cifar100/data/{names[i // 6]}/{i:03d}.png": make.png(image) for i, image in enumerate(images)}
    pickles = {}
    for split, classes in make.lists.splits.items():
        labels = [names.index(name) for name in classes for _ in range(6)]
        data = np.concatenate([images[6 * names.index(name) :][:6] for name in classes])
        pickles[f"FC100_{FILE_WORDS[split]}.pickle"] = make.python2_pickle({b"data": data, b"labels": labels})

    stores = [
        prepare("fc100", make.folder(tmp_path / "a", make.cifar100(images))),
        prepare("fc100", make.zip(tmp_path / "b.zip", folders)),
        prepare("fc100", make.folder(tmp_path / "c", pickles)),
    ]

    assert len({store.content_hash for store in stores}) == 1


def test_cifar_pickles_with_renumbered_labels_are_checked_by_counts(make, prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(Fc100, "class_lists", make.lists)
    sizes = {"train": 3, "val": 1, "test": 1}
    files = {
        f"FC100_{word}.pickle": pickle.dumps(
            {"data": make.images(6 * n, 32, n), "labels": np.repeat(np.arange(n), 6).tolist()}
        )
        for word, n in sizes.items()
    }

    store = prepare("fc100", make.folder(tmp_path / "a", files))

    assert store.split("train").class_names == ("train-class-000", "train-class-001", "train-class-002")


def mini_images(make):
    """Return by split and class images (4, 84, 84, 3)."""
    return {split: {name: make.images(4, 84, int(name[1:])) for name in names} for split, names in WORDNET.items()}


def cache_pickle(classes):
    rows = {name: list(range(4 * i, 4 * i + 4)) for i, name in enumerate(classes)}
    return pickle.dumps({"image_data": np.concatenate(list(classes.values())), "class_dict": rows}, 2)


def category_pickle(classes, make, with_names=True):
    labels = [i for i in range(len(classes)) for _ in range(4)]
    content = {b"data": np.concatenate(list(classes.values())), b"labels": labels}
    if with_names:
        content[b"catname2label"] = OrderedDict((name.encode(), i) for i, name in enumerate(classes))
    return make.python2_pickle(content)


def mini_forms(make):
    images = mini_images(make)
    folders = {
        f"{FILE_WORDS[split]}/{name}/{i}.png": make.png(image)
        for split, classes in images.items()
        for name, block in classes.items()
        for i, image in enumerate(block)
    }
    return {
        "cache": {f"mini-imagenet-cache-{split}.pkl": cache_pickle(classes) for split, classes in images.items()},
        "category": {
            **{
                f"miniImageNet_category_split_{word}.pickle": category_pickle(images[split], make)
                for split, word in (("train", "train_phase_train"), ("validation", "val"), ("test", "test"))
            },
            "miniImageNet_category_split_train_phase_val.pickle": b"never read",
            "miniImageNet_category_split_train_phase_test.pickle": b"never read",
        },
        "split folders": folders,
        "class folders": {name.partition("/")[2]: content for name, content in folders.items()},
        "flat": {f"images/{name.split('/')[1]}0000000{name[-5]}.png": content for name, content in folders.items()},
    }


def test_forms_of_mini_imagenet_give_equal_content(make, prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(MiniImagenet, "class_lists", WORDNET_LISTS)

    stores = {
        form: prepare("mini_imagenet", make.tar(tmp_path / f"{form}.tar", members))
        for form, members in mini_forms(make).items()
    }

    assert len({store.content_hash for store in stores.values()}) == 1
    assert stores["cache"].split("validation").class_names == ("n01855672",)


def test_full_size_images_are_resized_with_pillows_default_filter(make, prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(MiniImagenet, "class_lists", ClassLists(WORDNET, images_per_class=1))
    photograph = np.kron(make.images(1, 20)[0], np.ones((5, 7, 1), np.uint8))
    files = {f"{name}/{name}_1.png": make.png(photograph) for names in WORDNET.values() for name in names}

    store = prepare("mini_imagenet", make.folder(tmp_path / "a", files))

    expected = np.asarray(Image.fromarray(photograph).resize((84, 84)))
    np.testing.assert_array_equal(store.split("test").images[0], expected)


TIERED_LISTS = ClassLists(WORDNET, images_per_split={"train": 8, "validation": 4, "test": 4})


def tiered_labels(split):
    return pickle.dumps({"labels": np.repeat(np.arange(len(WORDNET[split])), 4).tolist()})


def npz(images):
    """Return the array file that the public program unpacks: its channels are blue, green, red."""
    stream = io.BytesIO()
    np.savez_compressed(stream, images=images[..., ::-1])
    return stream.getvalue()


def tiered_forms(make):
    images = {split: np.concatenate(list(classes.values())) for split, classes in mini_images(make).items()}
    labels = {f"{FILE_WORDS[split]}_labels.pkl": tiered_labels(split) for split in SPLITS}
    encoded = {
        split: [np.frombuffer(make.png(image), np.uint8)[:, None] for image in block] for split, block in images.items()
    }
    return {
        "arrays": labels | {f"{FILE_WORDS[split]}_images.npz": npz(block) for split, block in images.items()},
        "pickled files": labels
        | {f"{FILE_WORDS[split]}_images_png.pkl": pickle.dumps(block) for split, block in encoded.items()},
        "pickled files of learn2learn": {
            f"tiered-imagenet-{name}": content
            for name, content in (
                labels | {f"{FILE_WORDS[split]}_images_png.pkl": pickle.dumps(b) for split, b in encoded.items()}
            ).items()
        },
    }


def test_forms_of_tiered_imagenet_give_equal_content(make, prepare, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(TieredImagenet, "class_lists", TIERED_LISTS)

    stores = {
        form: prepare("tiered_imagenet", make.tar(tmp_path / f"{form}.tar", members))
        for form, members in tiered_forms(make).items()
    }

    assert len({store.content_hash for store in stores.values()}) == 1
    assert stores["arrays"].split("train").class_sizes.tolist() == [4, 4]
    assert "single pickle" in caplog.text


def test_tiered_imagenet_is_read_from_folders(make, prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(TieredImagenet, "class_lists", TIERED_LISTS)
    files = mini_forms(make)["class folders"] | {"n99999999/other.png": make.png(make.images(1, 84)[0])}

    store = prepare("tiered_imagenet", make.tar(tmp_path / "a.tar", files))

    assert store.split("train").class_names == tuple(WORDNET["train"])


def test_a_pickle_larger_than_memory_is_refused_before_it_is_read(make, prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(TieredImagenet, "class_lists", TIERED_LISTS)
    monkeypatch.setattr("fewshot.datasets.tiered_imagenet.PICKLE_MEMORY", 1e9)
    with pytest.raises(ResourceError, match=r"takes about .* GB of memory"):
        prepare("tiered_imagenet", make.folder(tmp_path / "a", tiered_forms(make)["pickled files"]))


def test_memory_does_not_grow_with_the_arrays_of_tiered_imagenet(make, prepare, monkeypatch, tmp_path):
    classes = {"train": [f"a{i}" for i in range(40)], "validation": ["b"], "test": ["c"]}
    monkeypatch.setattr(TieredImagenet, "class_lists", ClassLists(classes))
    folder = tmp_path / "given"
    folder.mkdir()
    for split, names in classes.items():
        labels = np.tile(np.arange(len(names)), 60).tolist()
        (folder / f"{FILE_WORDS[split]}_labels.pkl").write_bytes(pickle.dumps({"labels": labels}))
        block = np.zeros((len(labels), 84, 84, 3), np.uint8)
        np.savez_compressed(folder / f"{FILE_WORDS[split]}_images.npz", images=block)
    del block

    tracemalloc.start()
    store = prepare("tiered_imagenet", folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert store.split("train").images.nbytes > 50e6
    assert peak < 15e6


@pytest.mark.parametrize("root", ["CUB_200_2011/images", "train"])
def test_cub_is_read_from_the_archive_and_from_class_folders(root, make, prepare, monkeypatch, tmp_path):
    lists = ClassLists({"train": ["001.A"], "validation": ["002.B"], "test": ["004.D"]}, images_total=6)
    monkeypatch.setattr(Cub, "class_lists", lists)
    images = {f"{root}/{name}/{i}.png": make.png(make.images(1, 50, i)[0]) for name in
              ("001.A", "002.B", "004.D") for i in range(2)}  # fmt: skip
    extra = {"CUB_200_2011/README": b"text", "attributes.txt": b"text"}
    if "images" in root:
        extra["CUB_200_2011/segmentations/001.A/0.png"] = make.png(make.images(1, 50)[0])

    store = prepare("cub", make.tar(tmp_path / "a.tgz", images | extra, "w:gz"))

    assert store.split("train").images.shape == (2, 84, 84, 3)


def omniglot_lists(monkeypatch):
    """Replace the published class lists by three small alphabets."""
    entries = {"images_per_class": 2, "train": {"Greek": 3}, "validation": {"Latin": 1}, "test": {"Tengwar": 2}}
    monkeypatch.setattr("fewshot.datasets.omniglot.read_yaml", lambda path: entries)


def drawing(i):
    ink = np.full((105, 105), 255, np.uint8)
    ink[10 + i : 40 + i, 20:30] = 0
    stream = io.BytesIO()
    Image.fromarray(ink).convert("1").save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def omniglot(make, monkeypatch, tmp_path):
    omniglot_lists(monkeypatch)
    alphabets = {"images_background": [("Greek", 3), ("Latin", 1)], "images_evaluation": [("Tengwar", 2)]}
    folder = tmp_path / "given"
    folder.mkdir()
    for part, contents in alphabets.items():
        files = {
            f"{part}/{alphabet}/character{c + 1:02d}/{n:04d}_{i:02d}.png": drawing(20 * n + 2 * c + i)
            for n, (alphabet, count) in enumerate(contents)
            for c in range(count)
            for i in range(2)
        }
        make.zip(folder / f"{part}.zip", files)
    return folder


def test_omniglot_is_read_from_a_folder_with_both_archives(omniglot, prepare):
    store = prepare("omniglot", omniglot, sha256="none")

    assert store.split("train").class_names == ("Greek/character01", "Greek/character02", "Greek/character03")
    image = store.split("test").images[0]
    assert image.shape == (28, 28, 3)
    assert image.max() > 200  # ink is white
    assert np.median(image) == 0


def test_omniglot_rotations_are_separate_classes(omniglot, prepare):
    plain, store = (
        prepare("omniglot", omniglot, sha256="none"),
        prepare("omniglot", omniglot, sha256="none", rotations=True),
    )

    assert len(store.split("train").class_names) == 4 * len(plain.split("train").class_names)
    turned = store.split("test").class_names.index("Tengwar/character02@90")
    upright = np.asarray(plain.split("test").images[2:4])
    found = store.split("test").images[2 * turned : 2 * turned + 2]
    assert {np.rot90(image).tobytes() for image in upright} == {image.tobytes() for image in found}


def test_drawings_are_inverted_and_reduced():
    image = reduce_drawing(Image.new("1", (105, 105), 1))
    assert image.shape == (28, 28, 3)
    assert image.max() == 0


def class_files(make, root="", classes=10, images=3):
    return {
        f"{root}bird {i}/{j}.png": make.png(make.images(1, 20, 100 * i + j)[0])
        for i in range(classes)
        for j in range(images)
    }


def test_folder_of_class_folders_is_split_by_seed_and_shares(make, prepare, tmp_path):
    path = make.folder(tmp_path / "mine", class_files(make))

    first, again, other = (prepare("folder", path, image_size=16, split_seed=seed) for seed in (0, 0, 1))

    assert [len(first.split(split).class_names) for split in SPLITS] == [6, 2, 2]
    assert first.content_hash == again.content_hash != other.content_hash
    assert first.split("train").images.shape == (18, 16, 16, 3)


def test_folder_of_split_folders_keeps_its_splits(make, prepare, tmp_path):
    files = {}
    for i, split in enumerate(("train", "val", "test")):
        files |= {f"mine/{split}/{i}{name}": content for name, content in class_files(make, classes=2).items()}

    store = prepare("folder", make.zip(tmp_path / "mine.zip", files))

    assert store.split("validation").class_names == ("1bird 0", "1bird 1")


def test_folder_is_split_by_a_split_file(make, prepare, tmp_path):
    split_file = tmp_path / "split.yaml"
    split_file.write_text("train: [bird 0]\nvalidation: [bird 5]\ntest: [bird 9, bird 8]\n")

    store = prepare("folder", make.folder(tmp_path / "mine", class_files(make)), split_file=str(split_file))

    assert store.split("test").class_names == ("bird 9", "bird 8")


def test_center_crop_keeps_the_aspect_ratio(make, prepare, tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    files = {f"{name}/a.png": make.png(wide) for name in "abc"}

    store = prepare("folder", make.folder(tmp_path / "mine", files), image_size=8, resize="center_crop")

    assert store.split("train").images.min() == 255


FOLDER_FAULTS = {
    "no images": ({"a/readme.txt": b"x"}, "contains no images"),
    "loose images": ({"a.png": b"", "b/c.png": b""}, "are not in a class folder"),
    "two classes": ({"a/1.png": b"", "b/1.png": b""}, "at least three class folders"),
    "a split is missing": ({"train/a/1.png": b"", "test/b/1.png": b""}, r"missing \['validation'\]"),
    "split and other folders": (
        {f"{s}/a/1.png": b"" for s in ("train", "val", "test", "more")},
        r"unexpected \['more'\]",
    ),
    "images in split folders": ({f"{s}/1.png": b"" for s in ("train", "val", "test")}, "folder of its own"),
    "a class in two splits": ({f"{s}/a/1.png": b"" for s in ("train", "val", "test")}, "share no class"),
    "damaged image": ({f"{c}/1.png": b"\x89PNG\r\n" for c in "abc"}, "not a readable image"),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_faulty_folders_are_refused(fault, make, prepare, tmp_path):
    files, reason = FOLDER_FAULTS[fault]
    with pytest.raises(DataError, match=reason):
        prepare("folder", make.folder(tmp_path / "mine", files))


def test_faulty_split_files_are_refused(make, prepare, tmp_path):
    path, split_file = make.folder(tmp_path / "mine", class_files(make)), tmp_path / "split.yaml"
    for text, reason in (
        ("train: [bird 0]\nvalidation: [bird 5]\ntest: [whale]\n", "whale"),
        ("train: [bird 0]\nvalidation: [bird 0]\ntest: [bird 1]\n", "list it once"),
        ("train: [bird 0]\ntest: [bird 1]\n", "no classes for split 'validation'"),
        ("train: [bird 0]\nval: [bird 2]\ntest: [bird 1]\n", "unknown key 'val'; allowed: train, validation, test, "),
        ("train: bird 0\n", "must be a list"),
        ("- bird\n", "must contain lists"),
        ("train: [1]\nvalidation: [bird 5]\ntest: [bird 2]\n", "in quotes"),
        ("train: [", "cannot read"),
    ):
        split_file.write_text(text)
        with pytest.raises(DataError, match=reason):
            prepare("folder", path, split_file=str(split_file))


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "glyphs"])
def test_an_unknown_folder_is_refused_with_the_accepted_forms(name, make, prepare, tmp_path):
    path = make.folder(tmp_path / "unknown", {"readme.txt": b"nothing here"})
    with pytest.raises(DataError, match=r"accepted|contains no images"):
        prepare(name, path)


def test_settings_of_every_data_set_have_a_default_or_a_path():
    for name, part in DATASETS.items():
        settings = part.settings(path="x") if "path" in part.settings.model_fields else part.settings()
        dataset = part.load()(settings)
        assert isinstance(dataset, Dataset)
        assert dataset.name == name
        assert dataset.image_size == (part.image_size or settings.image_size)
