"""Archives that are opened, and those that are not: the message says what is inside and what to do."""

import gzip
import lzma
import pickle

import pytest

from fewshot.datasets import DATASETS
from fewshot.datasets.archives import Limits, open_files
from fewshot.datasets.prepare import build_store
from fewshot.errors import DataError

NESTED = {
    "a tar.gz in a zip": (
        lambda make, path: make.zip(path / "CUB_200_2011.tar.gz.zip", {"CUB_200_2011.tar.gz": b"\x1f\x8b"}),
        r"CUB_200_2011\.tar\.gz\.zip is not a known form .* contains archives \(CUB_200_2011\.tar\.gz\).*extract them",
    ),
    "zips in a tar": (
        lambda make, path: make.tar(path / "all.tar", {f"x/{i}.zip": b"PK" for i in "abcd"} | {"x/readme.txt": b"."}),
        r"contains archives \(x/a\.zip, x/b\.zip, x/c\.zip, \.\.\.\)",
    ),
    "archives in a subfolder": (
        lambda make, path: make.folder(path / "given", {"python/images.zip": b"PK", "python/demo.py": b"pass"}),
        r"contains archives \(python/images\.zip\).*the folder that has them at its top",
    ),
    "one compressed file": (
        lambda make, path: write(path / "data.pkl.gz", gzip.compress(pickle.dumps([1]))),
        r"data\.pkl\.gz contains a single file compressed with gzip, not a tar archive; decompress it",
    ),
    "a zip compressed again": (
        lambda make, path: write(path / "data.zip.xz", lzma.compress(b"PK\x03\x04" + bytes(600))),
        r"contains a zip archive compressed with xz",
    ),
    "a compressed web page": (
        lambda make, path: write(path / "data.tgz", gzip.compress(b"<html>quota</html>" + bytes(600))),
        r"data\.tgz contains a web page",
    ),
    "7z": (lambda make, path: write(path / "a.7z", b"7z\xbc\xaf\x27\x1c"), r"a\.7z is a 7z archive; accepted: zip, "),
    "rar in a folder": (lambda make, path: write(path / "given" / "a.rar", b"Rar!\x1a").parent, "is a rar archive"),
}


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", NESTED)
def test_archives_that_are_not_opened_are_named_with_what_to_do(kind, make, tmp_path):
    make_given, reason = NESTED[kind]
    settings = DATASETS["cub"].settings(path=str(make_given(make, tmp_path)), sha256="none")
    with pytest.raises(DataError, match=reason):
        build_store("cub", settings, tmp_path / "raw", tmp_path / "store")


def test_a_tar_compressed_with_xz_is_opened(make, tmp_path):
    path = make.tar(tmp_path / "a.tar.xz", {"a/1.txt": b"one"}, "w:xz")
    with open_files([path], tmp_path, Limits()) as files:
        assert files.read("a/1.txt", 10) == b"one"
