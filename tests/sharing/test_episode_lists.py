"""Frozen episodes as text: reading returns what was drawn, and any damaged or inconsistent file is refused."""

import hashlib
import json

import numpy as np
import pytest

from fewshot.episodes.draw import draw_episodes
from fewshot.episodes.form import EpisodeForm
from fewshot.episodes.frozen import episodes_hash
from fewshot.errors import DataError
from fewshot.sharing.episode_lists import check_episode_list, read_episode_list, write_episode_list


@pytest.fixture
def drawn(tiny_store):
    """Return 5 episodes, 3 ways, 2 shots, 4 queries, of the test split."""
    sizes = tiny_store.split("test").class_sizes
    return draw_episodes(0, "test", np.arange(5), EpisodeForm(3, 2, 4), sizes)


@pytest.fixture
def file(tiny_store, drawn, tmp_path):
    path = tmp_path / "episodes.jsonl"
    split = tiny_store.split("test")
    write_episode_list(path, drawn, split, dataset="glyphs", content_hash=tiny_store.content_hash)
    return path


def test_round_trip_keeps_every_episode(file, drawn):
    listed = read_episode_list(file)
    assert listed.header.episodes_hash == episodes_hash(drawn) == episodes_hash(listed.episodes)
    for name in ("classes", "images", "ids"):
        np.testing.assert_array_equal(getattr(listed.episodes, name), getattr(drawn, name))
    assert listed.episodes.n_query == drawn.n_query


def test_rows_and_sources_identify_the_images(file, tiny_store):
    split = tiny_store.split("test")
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        episode = json.loads(line)
        for part in (episode["support"], episode["query"]):
            assert part["sources"] == [split.source_ids[row] for row in part["rows"]]
            assert [episode["classes"][label] for label in part["labels"]] == split.labels[part["rows"]].tolist()


def test_header_holds_what_other_programs_need(file, tiny_store):
    header = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    assert header["class_names"] == [f"test {label}" for label in range(6)]
    assert header["class_sizes"] == [12] * 6
    assert header["content_hash"] == tiny_store.content_hash
    assert header["sha256"] == hashlib.sha256(file.read_bytes().partition(b"\n")[2]).hexdigest()


def test_equal_episodes_give_byte_identical_files(file, tiny_store, drawn, tmp_path):
    split = tiny_store.split("test")
    again = tmp_path / "deep" / "again.jsonl"
    write_episode_list(again, drawn, split, dataset="glyphs", content_hash=tiny_store.content_hash)
    assert again.read_bytes() == file.read_bytes()


def test_file_fits_the_data_it_was_drawn_from(file, tiny_store):
    check_episode_list(read_episode_list(file), tiny_store.split("test"), tiny_store.content_hash)


def test_another_split_is_refused(file, tiny_store):
    with pytest.raises(DataError, match=r"of split 'test' .*not of the prepared split 'train'"):
        check_episode_list(read_episode_list(file), tiny_store.split("train"), tiny_store.content_hash)


def test_different_pixels_are_refused(file, tiny_store):
    with pytest.raises(DataError, match="drawn from different images"):
        check_episode_list(read_episode_list(file), tiny_store.split("test"), "0" * 64)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read"):
        read_episode_list(tmp_path / "gone.jsonl")


def test_path_that_cannot_be_written_is_named(tiny_store, drawn, tmp_path):
    (tmp_path / "taken").mkdir()
    split = tiny_store.split("test")
    with pytest.raises(DataError, match="cannot be written"):
        write_episode_list(tmp_path / "taken", drawn, split, dataset="glyphs", content_hash=tiny_store.content_hash)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1"),
        (b"<html>", "line 1"),
        (b"[" * 100_000, "line 1"),
        (b"[]\n", "line 1"),
        (b'{"format": "other"}\n', "line 1"),
        (b"\xff\xfe\n", "line 1"),
    ],
)
def test_file_that_is_not_a_list_is_refused(tmp_path, content, message):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_episode_list(tmp_path / "bad.jsonl")


def test_changed_byte_is_detected(file):
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="sha256"):
        read_episode_list(file)


def test_truncated_file_is_detected(file):
    file.write_bytes(b"\n".join(file.read_bytes().splitlines()[:-1]) + b"\n")
    with pytest.raises(DataError, match="sha256"):
        read_episode_list(file)


def rewrite(file, change_header=None, change_episode=None):
    """Change a file and recompute its checksum, as a careless or hostile program would."""
    first, *lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if change_episode:
        change_episode(lines[1])
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    header = {**first, **(change_header or {}), "sha256": hashlib.sha256(body).hexdigest()}
    file.write_bytes(json.dumps(header).encode() + b"\n" + body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e["support"]["labels"].reverse(), "line 3: the support must list 2 images of each class"),
        (lambda e: e["query"]["rows"].pop(), "line 3: the query must list 4 images"),
        (lambda e: e["classes"].append(0), "line 3: classes"),
        (lambda e: e.update(classes=[0, 1, 99]), "line 3: classes"),
        (lambda e: e.update(classes=[0, 0, 1]), "line 3: classes"),
        (lambda e: e["query"]["rows"].reverse(), "line 3: a row is not an image of its class"),
        (lambda e: e["query"]["rows"].__setitem__(0, 2**31 - 1), "line 3: a row is not an image of its class"),
        (lambda e: e["query"]["rows"].__setitem__(0, -1), "line 3: not a line"),
        (lambda e: e["query"]["rows"].__setitem__(0, "0"), "line 3: not a line"),
        (lambda e: e["support"]["rows"].__setitem__(0, e["query"]["rows"][0]), "line 3: an image appears twice"),
        (lambda e: e["support"]["rows"].__setitem__(slice(0, 2), e["support"]["rows"][1::-1]), "episodes_hash"),
        (lambda e: e.update(extra=1), "line 3: not a line"),
    ],
)
def test_inconsistent_episode_is_refused(file, change, message):
    rewrite(file, change_episode=change)
    with pytest.raises(DataError, match=message):
        read_episode_list(file)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"version": 2}, "line 1"),
        ({"episodes": 6}, "5 episodes, but line 1 says 6"),
        ({"class_sizes": [12]}, "line 1"),
        ({"n_way": 10**9}, "line 1"),
        ({"n_shot": 1}, "the support must list 1 images"),
        ({"episodes_hash": "0" * 64}, "episodes_hash"),
    ],
)
def test_inconsistent_header_is_refused(file, header, message):
    rewrite(file, change_header=header)
    with pytest.raises(DataError, match=message):
        read_episode_list(file)
