"""Small synthetic stand-ins for the published archives."""

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from fewshot.datasets.class_lists import ClassLists


class Python2Pickler(pickle._Pickler):
    """Writes `bytes` as the `str` of Python 2, as in the old archives."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _save_text(self, text: bytes) -> None:
        short = len(text) < 256
        self.write((b"U" + bytes([len(text)]) if short else b"T" + struct.pack("<i", len(text))) + text)
        self.memoize(text)

    dispatch[bytes] = _save_text


def python2_pickle(value: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, 2).dump(value)
    return stream.getvalue()


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_folder(path: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": lambda path, members: write_folder(path / "given", members),
    "zip": lambda path, members: write_zip(path / "given.zip", members),
    "tar": lambda path, members: write_tar(path / "given.tar", members),
    "tar.gz": lambda path, members: write_tar(path / "given.tar.gz", members, "w:gz"),
    "tar.bz2": lambda path, members: write_tar(path / "given.tar.bz2", members, "w:bz2"),
}

FINE_LABELS = ["apple", "bear", "cat", "dog", "elm"]
SMALL_LISTS = ClassLists(
    {"train": ["bear", "dog", "apple"], "validation": ["elm"], "test": ["cat"]}, images_per_class=6
)


def cifar100_files(images: np.ndarray | None = None) -> dict[str, bytes]:
    """Return the original files with 5 classes of 6 images: 5 of each in train, 1 in test, written as by Python 2."""
    images = random_images(30, 32) if images is None else images
    labels = np.repeat(np.arange(5), 6)
    is_test = np.arange(30) % 6 == 5
    meta = {b"fine_label_names": [name.encode() for name in FINE_LABELS], b"coarse_label_names": [b"thing"]}
    files = {"cifar-100-python/meta": python2_pickle(meta)}
    for part, chosen in (("train", ~is_test), ("test", is_test)):
        rows = images[chosen].transpose(0, 3, 1, 2).reshape(-1, 3072)
        content = {b"data": rows, b"fine_labels": [int(label) for label in labels[chosen]], b"batch_label": b"x" * 300}
        files[f"cifar-100-python/{part}"] = python2_pickle(content)
    return files


@pytest.fixture
def make() -> SimpleNamespace:
    """Makers of synthetic files, as attributes (test modules cannot import a conftest)."""
    return SimpleNamespace(
        images=random_images, png=png, zip=write_zip, tar=write_tar, folder=write_folder, python2_pickle=python2_pickle,
        cifar100=cifar100_files, writers=WRITERS, lists=SMALL_LISTS,
    )  # fmt: skip
