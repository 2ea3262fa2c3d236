"""Libraries' messages inside our own: without addresses in memory, and without advice to load files unsafely."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from fewshot.datasets.images import decode_image
from fewshot.datasets.sources import read_npy_header
from fewshot.episodes.frozen import read_episodes
from fewshot.errors import CheckpointError, DataError, reason_of
from fewshot.weights.foreign import _read_torch

UNSAFE = ("allow_pickle", "weights_only", "unsafe", "trust", "0x")


class Calls:
    def __reduce__(self):
        return print, ("executed",)


def test_addresses_in_memory_are_not_shown():
    with pytest.raises(UnidentifiedImageError) as caught:
        Image.open(io.BytesIO(b"no image"))
    assert reason_of(caught.value) == "cannot identify image file"
    assert reason_of(ValueError("first\nsecond")) == "first"
    assert reason_of(EOFError()) == "EOFError"


def test_advice_to_load_a_hostile_file_is_not_shown(tmp_path, capsys):
    path = tmp_path / "a.pth"
    torch.save({"a": Calls()}, path)
    with pytest.raises(CheckpointError, match=r"it calls print") as foreign:
        _read_torch(path)

    np.savez(tmp_path / "a.npz", classes=np.array([Calls()], object))
    with pytest.raises(DataError, match="it contains pickled objects, which are not loaded") as frozen:
        read_episodes(tmp_path / "a.npz", n_shot=1, episodes=1)

    header = b"\x93NUMPY\x01\x00" + (20_000).to_bytes(2, "little") + b" " * 20_000
    with pytest.raises(DataError, match="not an array file") as array:
        read_npy_header(io.BytesIO(header), "a.npz")

    with pytest.raises(DataError, match="not a readable image") as image:
        decode_image(pickle.dumps([1]), "a.png")

    for error in (foreign, frozen, array, image):
        assert not any(word in str(error.value) for word in UNSAFE)
    assert "executed" not in capsys.readouterr().out
