import numpy as np
import pytest

from fewshot.episodes.philox import philox_block, stream_key

ONES32, ONES64 = np.uint32(0xFFFFFFFF), np.uint64(0xFFFFFFFFFFFFFFFF)


@pytest.mark.parametrize(
    ("key", "low", "high", "words"),
    [
        ((0, 0), 0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ((ONES32, ONES32), ONES64, ONES64, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            (0xA4093822, 0x299F31D0),
            0x85A308D3_243F6A88,
            0x03707344_13198A2E,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers_of_random123(key, low, high, words):
    block = philox_block(np.uint32(key[0]), np.uint32(key[1]), np.uint64(low), np.uint64(high))

    assert block.tolist() == words


def test_stream_keys_depend_on_every_part_of_the_name():
    names = [(0, "train", "episodes"), (1, "train", "episodes"), (0, "test", "episodes"), (0, "train", "crops")]

    assert len({stream_key(*name) for name in names}) == len(names)
    assert stream_key(0, "train", "episodes") == stream_key(0, "train", "episodes")
    assert stream_key(1, "1") != stream_key(11, "")
