"""Random damage: whatever the bytes, reading returns a value or raises `DataError`, never another exception."""

import contextlib
import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.datasets.archives import Limits, open_files
from fewshot.datasets.images import decode_image
from fewshot.datasets.safe_pickle import load_pickle
from fewshot.datasets.store import SplitPlan, open_store, write_store
from fewshot.errors import DataError

EDITS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6)
SAMPLE = {
    "data": np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
    "labels": [0, 1, 1, 0],
    "class_dict": OrderedDict(a=[0, 3], b=[1, 2]),
    "names": ("x", b"y", None, 1.5, {"z"}),
}


def edit(content, edits, keep):
    """Replace bytes and truncate."""
    damaged = bytearray(content)
    for position, value in edits:
        damaged[position % len(damaged)] = value
    return bytes(damaged[: max(1, int(keep * len(damaged)))])


def reads_or_refuses(read):
    """Run a reader that may raise `DataError` and nothing else."""
    with contextlib.suppress(DataError):
        read()


@settings(max_examples=600, deadline=None, derandomize=True)
@given(edits=EDITS, keep=st.sampled_from([1.0, 1.0, 0.9, 0.5]), protocol=st.integers(0, 5))
def test_damaged_pickle_is_read_or_refused(edits, keep, protocol):
    content = edit(pickle.dumps(SAMPLE, protocol), edits, keep)
    reads_or_refuses(lambda: load_pickle(io.BytesIO(content), "the pickle"))


CONTAINERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(value=CONTAINERS, protocol=st.integers(1, 5))
def test_plain_values_are_read_unchanged(value, protocol):
    assert load_pickle(io.BytesIO(pickle.dumps(value, protocol)), "the pickle") == value


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2"])
def test_damaged_archive_is_read_or_refused(kind, make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    path = make.writers[kind](folder, {f"a/{i}.bin": bytes([i]) * 300 for i in range(4)})
    content = path.read_bytes()

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(edits=EDITS, keep=st.sampled_from([1.0, 1.0, 0.9, 0.5]))
    def check(edits, keep):
        path.write_bytes(edit(content, edits, keep))

        def read():
            with open_files([path], folder, Limits(total_bytes=1 << 20)) as files:
                for name in files.names():
                    files.read(name, 1 << 20)

        reads_or_refuses(read)

    check()
    assert list(folder.iterdir()) == [path]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    edits=EDITS, keep=st.sampled_from([1.0, 0.7]), kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
)
def test_damaged_image_is_read_or_refused(edits, keep, kind):
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.arange(3 * 16 * 16, dtype=np.uint8).reshape(16, 16, 3)).save(stream, kind)
    reads_or_refuses(lambda: decode_image(edit(stream.getvalue(), edits, keep), "the image"))


def test_damaged_store_is_read_or_refused(make, tmp_path_factory):
    store = tmp_path_factory.mktemp("stores") / "store"
    image = make.images(1, 4)[0]
    write_store(
        store, "toy", (4, 4, 3), [SplitPlan(s, [s], [1], [(0, image, s)]) for s in ("train", "validation", "test")]
    )
    contents = {path: path.read_bytes() for path in store.iterdir()}

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(edits=EDITS, keep=st.sampled_from([1.0, 0.9]), file=st.integers(0, 100))
    def check(edits, keep, file):
        path = sorted(contents)[file % len(contents)]
        path.write_bytes(edit(contents[path], edits, keep))
        reads_or_refuses(lambda: open_store(store))
        path.write_bytes(contents[path])

    check()
