"""Malicious files: each is refused with a reason, nothing is executed, nothing is written elsewhere."""

import gzip
import io
import os
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from fewshot.datasets.archives import Limits, open_files
from fewshot.datasets.images import decode_image
from fewshot.datasets.safe_pickle import load_pickle
from fewshot.errors import DataError

LIMITS = Limits(members=50, total_bytes=1 << 20)


def tar_with(path, *members, mode="w"):
    """Write a tar of (TarInfo, content) pairs."""
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def tar_traversal(path):
    tar_with(path, (member("../outside.txt"), b"x"))


def tar_hidden_traversal(path):
    tar_with(path, (member("train/../../outside.txt"), b"x"))


def tar_absolute(path):
    tar_with(path, (member("/tmp/outside.txt"), b"x"))


def tar_symlink(path):
    tar_with(path, (member("images", tarfile.SYMTYPE, "/etc"), b""), (member("images/passwd"), b"x"))


def tar_hardlink(path):
    tar_with(path, (member("a", tarfile.LNKTYPE, "/etc/passwd"), b""))


def tar_device(path):
    tar_with(path, (member("disk", tarfile.BLKTYPE), b""))


def tar_pipe(path):
    tar_with(path, (member("pipe", tarfile.FIFOTYPE), b""))


def tar_twice(path):
    tar_with(path, (member("a"), b"x"), (member("a"), b"y"))


def tar_many_members(path):
    tar_with(path, *[(member(f"{i}"), b"") for i in range(60)])


def tar_declared_bomb(path):
    info = member("huge")
    info.size = 1 << 50
    path.write_bytes(info.tobuf() + b"\0" * 2048)


def tar_negative_size(path):
    header = bytearray(member("a").tobuf())
    header[124:136] = b"\xff" * 12  # base-256, negative
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    path.write_bytes(bytes(header) + b"\0" * 2048)


def tar_huge_header(path):
    info = member("pax", tarfile.XHDTYPE)
    info.size = 8 << 20
    path.write_bytes(info.tobuf() + b"\0" * (9 << 20))


def tar_gz_real_bomb(path):
    with gzip.open(path, "wb") as file:
        for _ in range(64):
            file.write(b"\0" * (1 << 20))


def tar_sparse(path):
    info = member("sparse", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" * 2
    header[483:495] = b"77777777777\0"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    path.write_bytes(bytes(header) + b"\0" * 2048)


def tar_control_characters(path):
    tar_with(path, (member("a\x1b[2Jb"), b"x"))


def zip_with(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in members:
            archive.writestr(info, content)


def zip_traversal(path):
    zip_with(path, ("../../outside.txt", b"x"))


def zip_absolute(path):
    zip_with(path, ("/tmp/outside.txt", b"x"))


def zip_drive(path):
    zip_with(path, ("C:/outside.txt", b"x"))


def zip_backslash(path):
    zip_with(path, ("..\\outside.txt", b"x"))


def zip_symlink(path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    zip_with(path, (info, b"/etc/passwd"))


def zip_real_bomb(path):
    zip_with(path, *[(f"{i}", b"\0" * (1 << 19)) for i in range(4)])


def zip_overlapping(path):
    """Write two entries of the central directory that share one compressed member."""
    zip_with(path, ("aaaa", b"\0" * 1000), ("bbbb", b"\0" * 1000))
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = struct.pack("<I", 0)
    path.write_bytes(bytes(content))


def zip_encrypted(path):
    zip_with(path, ("a", b"x" * 100))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))


TARS = [
    tar_traversal, tar_hidden_traversal, tar_absolute, tar_symlink, tar_hardlink, tar_device, tar_pipe, tar_twice,
    tar_many_members, tar_declared_bomb, tar_negative_size, tar_huge_header, tar_sparse, tar_control_characters,
]  # fmt: skip
ZIPS = [
    zip_traversal, zip_absolute, zip_drive, zip_backslash, zip_symlink, zip_real_bomb, zip_overlapping, zip_encrypted,
]  # fmt: skip


@pytest.mark.parametrize("hostile", [*TARS, tar_gz_real_bomb, *ZIPS], ids=lambda function: function.__name__)
def test_hostile_archive_is_refused_and_writes_nothing(hostile, tmp_path):
    folder, scratch = tmp_path / "in", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    suffix = ".zip" if hostile.__name__.startswith("zip") else ".tar.gz" if "gz" in hostile.__name__ else ".tar"
    archive = folder / f"archive{suffix}"
    hostile(archive)
    before = sorted(tmp_path.rglob("*"))

    with (
        pytest.raises(DataError, match=r"archive refused|refused$|fetch it again"),
        open_files([archive], scratch, LIMITS),
    ):
        pass

    assert sorted(tmp_path.rglob("*")) == before


def test_zip_member_longer_than_declared_is_refused(tmp_path):
    zip_with(tmp_path / "a.zip", ("a", b"\0" * 5000))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 24 : central + 28] = struct.pack("<I", 10)
    (tmp_path / "a.zip").write_bytes(bytes(content))

    with pytest.raises(DataError, match="fetch it again"), open_files([tmp_path / "a.zip"], tmp_path, LIMITS) as files:
        files.read("a", 1000)


class Calls:
    """A value whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


NUMPY_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
NUMPY_BYTE = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR"
PICKLES = {
    "runs a command": pickle.dumps(Calls(os.system, "touch {marker}")),
    "runs a command, protocol 0": b"cos\nsystem\n(S'touch {marker}'\ntR.",
    "evaluates text": pickle.dumps(Calls(eval, "open('{marker}', 'w')")),
    "executes text": b'c__builtin__\nexec\n(S\'open("{marker}", "w")\'\ntR.',
    "opens a file": pickle.dumps(Calls(open, "{marker}", "w")),
    "imports by the old opcode": b"(S'touch {marker}'\nios\nsystem\n.",
    "builds an object": b"(cos\nsystem\nS'touch {marker}'\no.",
    "names inside numpy": b"cnumpy.testing._private.utils\nruncode\n(S'x'\ntR.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0bos.system.xx\x93.",
    "persistent id": b"Pfile:///etc/passwd\n.",
    "extension registry": b"\x80\x02\x82\x01.",
    "calls ndarray itself": b"cnumpy\nndarray\n((I99999999999\ntI0\ntR.",
    "array larger than its content": NUMPY_ARRAY + b"(I1\n(I99999999999\nt" + NUMPY_BYTE + b"I00\nS'x'\ntb.",
    "array of negative shape": NUMPY_ARRAY + b"(I1\n(I-5\nt" + NUMPY_BYTE + b"I00\nS'x'\ntb.",
    "structured array type": b"cnumpy\ndtype\n(S'u1,O,u1'\nI0\nI1\ntR.",
    "huge array type": b"cnumpy\ndtype\n(S'V9999999999'\nI0\nI1\ntR.",
    "sets the state of a function": b"c_codecs\nencode\n(N}S'__defaults__'\n(S'x'\ntstb.",
    "item longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
    "frame longer than the file": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "memo bomb": b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 2) + b".",
    "huge integer": b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\xff" * (1 << 20) + b".",
    "nested too deeply": b"\x80\x02" + b"]" * 500 + b"a" * 499 + b".",
    "contains itself": b"\x80\x02]q\x00h\x00a.",
    "reduces a class of this package": b"cfewshot.datasets.file_sets\nSingleFile\n(S'/etc/passwd'\ntR.",
    "no end": b"\x80\x02]",
    "no pickle": b"hello, this is text",
    "empty": b"",
}


@pytest.mark.parametrize("name", PICKLES)
def test_hostile_pickle_is_refused_and_nothing_is_executed(name, tmp_path):
    marker = tmp_path / "marker"
    content = PICKLES[name].replace(b"{marker}", str(marker).encode())
    if PICKLES[name][:2] == b"\x80\x04" and b"{marker}" in PICKLES[name]:
        content = PICKLES[name]  # these store the length of the text, so it cannot be replaced

    with pytest.raises(DataError, match="the pickle"):
        load_pickle(io.BytesIO(content), "the pickle")

    assert not marker.exists()
    assert not os.path.exists("{marker}")


def test_shared_references_are_resolved_once():
    value: list = ["ha"]
    for _ in range(15):
        value = [value] * 100  # 100^15 strings if each reference were visited

    assert load_pickle(io.BytesIO(pickle.dumps(value)), "the pickle")[99][99][99][0] is not None


def png_declaring(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png_declaring(100_000, 100_000), "exceeds limit"),
        (png_declaring(10_000, 10_000), "declares 10000 x 10000"),
        (png_declaring(100, 100), "not a readable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run", "not a readable image"),
        (b"GIF89a", "not a readable image"),
        (b"", "not a readable image"),
    ],
    ids=["above Pillow's limit", "above our limit", "truncated", "PostScript", "header only", "empty"],
)
def test_hostile_image_is_refused(content, reason):
    with pytest.raises(DataError, match=reason):
        decode_image(content, "the image")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["u1", "<i8", ">i4", "f8", "S5", "U5", "?"])
def test_valid_arrays_of_every_protocol_are_read(protocol, kind):
    values = {"data": np.arange(24).reshape(2, 3, 4).astype(kind), "labels": [1, 2, 3], "names": {"a": (1, "b", None)}}

    read = load_pickle(io.BytesIO(pickle.dumps(values, protocol)), "the pickle")

    np.testing.assert_array_equal(read["data"], values["data"])
    assert read["data"].dtype == values["data"].dtype
    assert read["labels"] == [1, 2, 3]
    assert read["names"] == {"a": (1, "b", None)}


def test_valid_object_arrays_scalars_and_fortran_order_are_read():
    objects = np.empty(2, object)
    objects[:] = ["tench", np.arange(3)]
    fortran = np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    values = {"o": objects, "s": np.int64(7), "f": fortran, np.int64(3): "key", "e": np.zeros((0, 4), np.uint8)}

    read = load_pickle(io.BytesIO(pickle.dumps(values)), "the pickle")

    assert read["o"][0] == "tench"
    np.testing.assert_array_equal(read["o"][1], np.arange(3))
    assert read["s"] == 7
    np.testing.assert_array_equal(read["f"], fortran)
    assert read[3] == "key"
    assert read["e"].shape == (0, 4)


def test_python_2_pickles_are_read(make):
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    read = load_pickle(io.BytesIO(make.python2_pickle({b"data": array, b"labels": [1, 2]})), "the pickle")

    np.testing.assert_array_equal(read["data"], array)
    assert read["labels"] == [1, 2]


def test_valid_archives_of_every_kind_are_read(make, tmp_path):
    members = {
        "a/b.txt": b"hello",
        "a/c.bin": bytes(range(256)) * 40,
        "__MACOSX/a/b.txt": b"junk",
        "a/.DS_Store": b"junk",
    }
    for kind, write in make.writers.items():
        folder = tmp_path / kind
        folder.mkdir()
        with open_files([write(folder, members)], tmp_path, LIMITS) as files:
            assert files.names() == ["a/b.txt", "a/c.bin"]
            assert files.read("a/c.bin", 1 << 20) == members["a/c.bin"]
            with files.open("a/c.bin") as file:
                file.seek(250)
                assert file.read(8) == members["a/c.bin"][250:258]
