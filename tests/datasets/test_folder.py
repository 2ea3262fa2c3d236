"""The data set `folder` on what real folders contain: links, leftovers, broken images, odd names."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from fewshot.datasets import DATASETS
from fewshot.datasets.contact_sheet import draw_contact_sheet
from fewshot.datasets.prepare import build_store
from fewshot.datasets.store import SplitPlan, open_store, write_store
from fewshot.errors import DataError


@pytest.fixture
def mine(make, tmp_path):
    """Return a folder with four classes of two images."""
    names = [f"{name}/{i}.png" for name in "abcd" for i in range(2)]
    images = {name: make.png(make.images(1, 8, seed)[0]) for seed, name in enumerate(names)}
    return make.folder(tmp_path / "mine", images)


@pytest.fixture
def prepare(tmp_path):
    """Return a function that prepares a path as `folder` and returns the store."""

    def run(path, **settings):
        typed = DATASETS["folder"].settings(path=str(path), image_size=8, **settings)
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        return build_store("folder", typed, tmp_path / "raw", tmp_path / "store")

    return run


def grey16(level):
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), level, np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def test_clean_folder_has_nothing_to_report(mine, prepare, caplog):
    provenance = prepare(mine).record["provenance"]
    assert [provenance[name] for name in ("skipped", "converted", "noted", "broken")] == [{}, {}, {}, {}]
    assert caplog.text == ""


def test_what_is_skipped_is_recorded_and_said_once(mine, prepare, caplog):
    (mine / "a" / ".DS_Store").write_bytes(b"x")
    (mine / "Thumbs.db").write_bytes(b"x")
    (mine / "a" / "gone.png").symlink_to(mine / "nowhere.png")
    (mine / "a" / "photo.HEIC").write_bytes(b"x")
    for name in ("readme", "scan.001", "scan.002"):
        (mine / name).write_bytes(b"x")
    (mine / "e").mkdir()

    store = prepare(mine)

    assert store.record["provenance"]["skipped"] == {
        ".heic files": 1, "broken links": 1, "folders without images": 1, "hidden files": 2, "other files": 3,
    }  # fmt: skip
    said = "skipped: 8 (other files: 3, hidden files: 2, .heic files: 1, broken links: 1, folders without images: 1)"
    assert caplog.text.count(said) == 1


def test_members_of_an_archive_that_are_skipped_are_recorded(mine, make, prepare, tmp_path):
    files = {path.relative_to(mine).as_posix(): path.read_bytes() for path in mine.glob("*/*")}
    archive = make.zip(tmp_path / "mine.zip", files | {"__MACOSX/a/._0.png": b"x", "a/notes.txt": b"x"})

    assert prepare(archive).record["provenance"]["skipped"] == {".txt files": 1, "hidden files": 1}


def test_conversions_are_recorded_and_said_once(mine, prepare, caplog):
    for name in "abc":
        (mine / name / "0.png").write_bytes(grey16(257 * 40))

    store = prepare(mine)

    assert store.record["provenance"]["converted"] == {"16-bit grey": 3}
    assert caplog.text.count("converted: 3 (16-bit grey: 3)") == 1
    rows = np.concatenate([np.asarray(split.images) for split in store.splits.values()])
    assert sum(bool((image == 40).all()) for image in rows) == 3


def test_folders_that_may_be_mistakes_are_noted(mine, make, prepare):
    make.folder(mine, {"photo.jpg/0.png": make.png(make.images(1, 8, 99)[0])})
    assert prepare(mine).record["provenance"]["noted"] == {"folders named like images": 1, "single-image classes": 1}


def test_classes_left_out_by_a_split_file_are_noted_and_not_decoded(mine, prepare, tmp_path):
    (mine / "d" / "0.png").write_bytes(b"broken")
    (tmp_path / "split.yaml").write_text("train: [a]\nvalidation: [b]\ntest: [c]\n")

    store = prepare(mine, split_file=str(tmp_path / "split.yaml"))

    assert store.record["provenance"]["noted"] == {"classes not in the split file": 1}


def test_all_broken_images_are_listed_in_one_message(mine, prepare, tmp_path):
    (mine / "a" / "0.png").write_bytes(b"")
    (mine / "c" / "1.png").write_bytes((mine / "c" / "1.png").read_bytes()[:60])
    Image.fromarray(np.zeros((8, 8), np.float32)).save(mine / "d" / "deep.tif")

    with pytest.raises(DataError) as caught:
        prepare(mine)

    first, *listed = str(caught.value).splitlines()
    assert first.startswith(f"{mine}: 3 images cannot be used; ")
    assert "on_broken: skip" in first
    assert [line.split()[0] for line in listed] == ["'a/0.png'", "'c/1.png'", "'d/deep.tif'"]
    assert "floating-point" in listed[2]
    assert not (tmp_path / "store").exists()


def test_skipped_broken_images_are_recorded_and_change_nothing_else(mine, make, prepare):
    clean = prepare(mine)
    make.folder(mine, {"a/2.png": b"broken", "d/9.png": b""})

    store = prepare(mine, on_broken="skip")

    assert store.content_hash == clean.content_hash
    provenance = store.record["provenance"]
    assert provenance["skipped"] == {"broken images": 2}
    assert list(provenance["broken"]) == ["a/2.png", "d/9.png"]
    assert "not a readable image" in provenance["broken"]["a/2.png"]


def test_class_whose_images_are_all_broken_is_left_out(mine, make, prepare):
    make.folder(mine, {"e/0.png": b"broken"})
    store = prepare(mine, on_broken="skip")
    assert sorted(name for split in store.splits.values() for name in split.class_names) == list("abcd")


def test_folder_of_broken_images_only_is_refused_even_when_they_are_skipped(make, prepare, tmp_path):
    path = make.folder(tmp_path / "mine", {f"{name}/0.png": b"" for name in "abc"})
    with pytest.raises(DataError, match="3 images cannot be used"):
        prepare(path, on_broken="skip")


def test_source_ids_name_the_files_of_the_images(mine, prepare):
    store = prepare(mine)
    for split in store.splits.values():
        for image, source in zip(split.images, split.source_ids, strict=True):
            assert np.array_equal(image, np.asarray(Image.open(mine / source)))


@pytest.mark.parametrize("name", ["two\nlines", "a\rb", "tab\tbed", os.fsdecode(b"latin-\xe9"), "a\u2028b"])
@pytest.mark.parametrize("kind", ["class", "image"])
def test_names_that_cannot_be_shown_are_refused_by_name(mine, prepare, name, kind):
    (mine / "a").rename(mine / name) if kind == "class" else (mine / "a/0.png").rename(mine / f"a/{name}.png")
    with pytest.raises(DataError, match=r"contain line breaks .* or are not UTF-8; rename them: ") as caught:
        prepare(mine)
    assert repr(name)[1:-1] in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["Ærøskøbing", "鳥", "no\u00a0break", "🦜", "a'b\"c", "x" * 200, "-", "$HOME", "%s"])
def test_names_in_any_script_are_taken(mine, prepare, tmp_path, name):
    (mine / "a").rename(mine / name)
    store = prepare(mine)
    assert name in {found for split in store.splits.values() for found in split.class_names}
    draw_contact_sheet(store, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").width > 0


@pytest.mark.parametrize("name", ["two\nlines", os.fsdecode(b"latin-\xe9"), "x\0y", "w" * 3000])
def test_contact_sheet_and_sources_take_any_name(make, tmp_path, name):
    images = make.images(3, 8)
    splits = [
        SplitPlan(split, [f"{split} {name}"], [1], [(0, image, f"{split}/{name}")])
        for split, image in zip(("train", "validation", "test"), images, strict=True)
    ]

    store = write_store(tmp_path / "store", "toy", (8, 8, 3), splits)

    draw_contact_sheet(store, tmp_path / "sheet.png")
    again = open_store(tmp_path / "store")
    assert again.split("test").class_names == (f"test {name}",)
    assert [len(split.source_ids) for split in again.splits.values()] == [1, 1, 1]
