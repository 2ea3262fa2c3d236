"""Stores as sheets: the same bytes again, and damage refused."""

import pytest
from PIL import Image

from fewshot.datasets.store import open_store
from fewshot.errors import DataError
from fewshot.sharing import image_sheets
from fewshot.sharing.image_sheets import pack_store, unpack_store


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("largest_side", [16_383, 48])  # 12 images of 16 pixels: one sheet, or two of at most 9 images
def test_an_unpacked_store_has_the_same_bytes(tiny_store, tmp_path, monkeypatch, largest_side):
    monkeypatch.setattr(image_sheets, "LARGEST_SIDE", largest_side)
    pack_store(tiny_store, tmp_path / "sheets")
    unpack_store(tmp_path / "sheets", tmp_path / "store")
    assert content(tmp_path / "store") == content(tiny_store.directory)
    assert open_store(tmp_path / "store").content_hash == tiny_store.content_hash
    assert len(list((tmp_path / "sheets" / "train").iterdir())) == 8 * (1 if largest_side > 48 else 2)


def test_a_sheet_of_another_size_is_refused(tiny_store, tmp_path):
    pack_store(tiny_store, tmp_path / "sheets")
    Image.new("RGB", (16, 16)).save(tmp_path / "sheets" / "test" / "00002-0.webp", lossless=True)
    with pytest.raises(DataError, match=r"test/00002-0.webp: .* instead of 12 images"):
        unpack_store(tmp_path / "sheets", tmp_path / "store")


def test_a_truncated_sheet_is_refused(tiny_store, tmp_path):
    pack_store(tiny_store, tmp_path / "sheets")
    sheet = tmp_path / "sheets" / "train" / "00000-0.webp"
    sheet.write_bytes(sheet.read_bytes()[:40])
    with pytest.raises(DataError, match=r"train/00000-0.webp: cannot be read .* send the bundle again"):
        unpack_store(tmp_path / "sheets", tmp_path / "store")
