"""Episodes are a pure function of (seed, split, index), uniform, nested over shots and ways, and stored safely."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from fewshot.episodes.batch import gather_batch
from fewshot.episodes.draw import EpisodeIndices, draw_episodes
from fewshot.episodes.form import EpisodeForm
from fewshot.episodes.frozen import episodes_hash, read_episodes, write_episodes
from fewshot.errors import DataError
from fewshot.files import write_npz

SIZES = np.array([30, 25, 40, 30, 20, 33, 27, 30])
GOLDEN = "1d9f601c4ee69d6cc586f389239fdbaecd1adf625fbef4162c6ef6287098eccf"


def draw(indices, seed=0, split="test", n_way=5, n_shot=3, n_query=4, class_sizes=SIZES):
    return draw_episodes(seed, split, np.asarray(indices), EpisodeForm(n_way, n_shot, n_query), class_sizes)


def same(a, b):
    return np.array_equal(a.classes, b.classes) and np.array_equal(a.images, b.images)


def test_frozen_list_keeps_its_hash():
    assert episodes_hash(draw(range(100))) == GOLDEN


def test_another_process_draws_the_same_episodes():
    code = (
        "import numpy as np; from fewshot.episodes.draw import draw_episodes;"
        "from fewshot.episodes.frozen import episodes_hash;"
        "from fewshot.episodes.form import EpisodeForm;"
        f"print(episodes_hash(draw_episodes(0, 'test', np.arange(100), EpisodeForm(5, 3, 4),"
        f" np.array({SIZES.tolist()}))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == GOLDEN


def test_episode_does_not_depend_on_its_neighbours():
    together = draw(range(50))
    alone = draw([17])
    backwards = draw(range(49, -1, -1))

    assert np.array_equal(together.classes[17], alone.classes[0])
    assert np.array_equal(together.images[17], alone.images[0])
    assert np.array_equal(together.images, backwards.images[::-1])


def test_indices_beyond_32_bits_give_different_episodes():
    near, far = draw([3]), draw([3 + 2**40])

    assert not same(near, far)


def test_fewer_shots_are_a_prefix_with_the_same_queries():
    starts = np.cumsum(SIZES) - SIZES
    five, one = draw(range(20), n_shot=5), draw(range(20), n_shot=1)

    support_of_five, query_of_five = five.rows(starts, 1)
    support_of_one, query_of_one = one.rows(starts, 1)

    assert np.array_equal(support_of_five, support_of_one)
    assert np.array_equal(query_of_five, query_of_one)


def test_fewer_episodes_and_fewer_ways_are_prefixes():
    large, small = draw(range(40), n_way=7), draw(range(10), n_way=3)

    assert np.array_equal(large.classes[:10, :3], small.classes)
    assert np.array_equal(large.images[:10, :3], small.images)


def test_no_class_or_image_repeats_and_all_are_in_range():
    episodes = draw(range(500), n_way=8, n_shot=8, n_query=12)

    assert (np.sort(episodes.classes, axis=1) == np.arange(8)).all()
    ordered = np.sort(episodes.images, axis=2)
    assert (np.diff(ordered, axis=2) > 0).all()
    assert (ordered[:, :, 0] >= 0).all()
    assert (ordered[:, :, -1] < SIZES[episodes.classes]).all()


def test_support_and_query_rows_are_disjoint_and_of_the_right_class():
    starts = np.cumsum(SIZES) - SIZES
    labels = np.repeat(np.arange(len(SIZES)), SIZES)
    episodes = draw(range(30))

    support, query = episodes.rows(starts, 3)

    assert (labels[support] == np.repeat(episodes.classes, 3, axis=1)).all()
    assert (labels[query] == np.repeat(episodes.classes, 4, axis=1)).all()
    assert all(not set(s) & set(q) for s, q in zip(support.tolist(), query.tolist(), strict=True))


@pytest.mark.parametrize("position", [0, 2, 4])
def test_classes_are_uniform_at_every_position(position):
    counts = np.bincount(draw(range(8000)).classes[:, position], minlength=len(SIZES))

    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("position", [0, 3, 6])
def test_images_are_uniform_at_every_position(position):
    episodes = draw(range(8000))
    of_class_2 = episodes.images[..., position][episodes.classes == 2]
    counts = np.bincount(of_class_2, minlength=SIZES[2])

    assert stats.chisquare(counts).pvalue > 1e-4


def test_pairs_of_classes_are_uniform():
    first, second = draw(range(20_000)).classes[:, :2].T
    counts = np.bincount(first * 8 + second, minlength=64).reshape(8, 8)

    assert (np.diag(counts) == 0).all()
    assert stats.chisquare(counts[~np.eye(8, dtype=bool)]).pvalue > 1e-4


def test_seeds_and_splits_have_separate_streams():
    lists = [draw(range(50), seed=0), draw(range(50), seed=1), draw(range(50), split="validation")]

    assert len({episodes_hash(episodes) for episodes in lists}) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"n_way": 9}, "9 ways requested, but split 'test' has 8 classes"), ({"n_shot": 17}, "smallest class .* has 20")],
)
def test_too_small_a_split_is_refused(changes, words):
    with pytest.raises(DataError, match=words):
        draw([0], **changes)


def test_whole_split_can_be_drawn():
    episodes = draw([0], n_way=8, n_shot=16, n_query=4)

    assert (np.sort(episodes.images[episodes.classes == 4]) == np.arange(20)).all()


def test_gathered_images_are_those_of_the_rows():
    images = np.arange(SIZES.sum(), dtype=np.uint8)[:, None, None, None] + np.zeros((1, 2, 2, 3), np.uint8)
    starts = np.cumsum(SIZES) - SIZES
    episodes = draw([4, 9])

    batch = gather_batch(images, starts, episodes, 2)

    support, query = episodes.rows(starts, 2)
    assert batch.support_images.shape == (2, 10, 3, 2, 2)
    assert torch.equal(batch.support_images[:, :, 0, 0, 0], torch.from_numpy(support.astype(np.uint8)))
    assert torch.equal(batch.query_images[:, :, 2, 1, 1], torch.from_numpy(query.astype(np.uint8)))
    assert batch.support_labels[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert batch.episode_ids.tolist() == [4, 9]


def test_chunks_contain_every_episode_once():
    images = np.zeros((SIZES.sum(), 2, 2, 3), np.uint8)
    batch = gather_batch(images, np.cumsum(SIZES) - SIZES, draw(range(5)), 1)

    chunks = list(batch.chunks(2))

    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    assert torch.cat([chunk.episode_ids for chunk in chunks]).tolist() == [0, 1, 2, 3, 4]


def test_list_file_returns_what_was_written(tmp_path):
    episodes = draw(range(20))
    write_episodes(tmp_path / "list.npz", episodes)

    found = read_episodes(tmp_path / "list.npz", n_shot=2, episodes=10)

    assert np.array_equal(found.classes, episodes.classes[:10])
    assert np.array_equal(found.images, episodes.images[:10, :, : 4 + 2])
    assert found.n_shot == 2


def test_equal_lists_give_byte_identical_files(tmp_path):
    for name in ("a", "b"):
        write_episodes(tmp_path / name, draw(range(20)))

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_missing_list_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"not (readable|an episode list)"):
        read_episodes(tmp_path / "nowhere.npz", n_shot=1, episodes=1)


@pytest.mark.parametrize(("n_shot", "episodes"), [(4, 10), (3, 21)])
def test_short_list_is_refused(n_shot, episodes, tmp_path):
    write_episodes(tmp_path / "list.npz", draw(range(20)))

    with pytest.raises(DataError, match="contains 20 episodes of 3 shots"):
        read_episodes(tmp_path / "list.npz", n_shot=n_shot, episodes=episodes)


@pytest.mark.parametrize("kept", [0, 10, 200, 1000, 5000])
def test_truncated_list_is_refused(kept, tmp_path):
    path = tmp_path / "list.npz"
    write_episodes(path, draw(range(100)))
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(DataError, match=r"not (readable|an episode list)"):
        read_episodes(path, n_shot=1, episodes=1)


def test_damaged_list_is_refused(tmp_path):
    path = tmp_path / "list.npz"
    write_episodes(path, draw(range(100)))
    content = bytearray(path.read_bytes())
    content[3000] ^= 0xFF
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"not (readable|an episode list)"):
        read_episodes(path, n_shot=1, episodes=1)


GOOD = {
    "classes": np.zeros((2, 5), np.int32),
    "images": np.zeros((2, 5, 7), np.int32),
    "n_query": np.int64(4),
    "ids": np.arange(2),
}


WRONG_FORMS = {
    "classes are floats": {"classes": np.zeros((2, 5))},
    "one class per episode": {"classes": np.zeros(2, np.int32)},
    "images are flat": {"images": np.zeros((2, 5), np.int32)},
    "images of more episodes": {"images": np.zeros((3, 5, 7), np.int32)},
    "images of fewer ways": {"images": np.zeros((2, 4, 7), np.int32)},
    "negative images": {"images": np.full((2, 5, 7), -1, np.int32)},
    "no queries": {"n_query": np.int64(0)},
    "more queries than images": {"n_query": np.int64(8)},
    "several counts": {"n_query": np.array([4, 4])},
    "text for a count": {"n_query": np.array("four")},
    "too many ids": {"ids": np.arange(3)},
}


@pytest.mark.parametrize("name", WRONG_FORMS)
def test_malformed_list_is_refused(name, tmp_path):
    write_npz(tmp_path / "list.npz", {**GOOD, **WRONG_FORMS[name]})

    with pytest.raises(DataError, match=r"not (readable|an episode list)"):
        read_episodes(tmp_path / "list.npz", n_shot=1, episodes=2)


def test_list_with_pickled_objects_is_not_executed(tmp_path):
    np.savez(tmp_path / "list.npz", **{**GOOD, "ids": np.array([{}, {}], dtype=object)})

    with pytest.raises(DataError, match=r"not (readable|an episode list)"):
        read_episodes(tmp_path / "list.npz", n_shot=1, episodes=2)


def test_drawing_does_not_import_torch():
    code = "import sys; from fewshot.episodes import draw_episodes; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_taken_episodes_are_those_of_the_list():
    part = draw(range(20)).take(slice(5, 8))

    assert len(part) == 3
    assert same(part, draw([5, 6, 7]))
    assert part.ids.tolist() == [5, 6, 7]


def test_hash_counts_classes_and_images_not_ids():
    a, b = draw(range(20)), draw(range(20))
    renumbered = EpisodeIndices(b.classes, b.images, b.n_query, b.ids + 1)

    assert episodes_hash(a) == episodes_hash(renumbered)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": "0"}, "seed is '0'"),
        ({"indices": [-1]}, r"indices are \[-1\]; allowed: a list of integers, 0 or more"),
        ({"indices": [0.5]}, "indices are"),
        ({"indices": 3}, "indices are 3"),
        ({"form": EpisodeForm(2, -1, 3)}, "n_shot is -1; allowed: an integer, 1 or more"),
    ],
)
def test_impossible_draws_are_refused(change, words):
    arguments = {"seed": 0, "split": "test", "indices": [0, 1], "form": EpisodeForm(2, 1, 3), "class_sizes": [20, 20]}
    with pytest.raises(DataError, match=words):
        draw_episodes(**arguments | change)


def test_another_valid_list_than_the_recorded_one_is_refused(tmp_path):
    path, drawn = tmp_path / "list.npz", draw(range(20))
    write_episodes(path, draw(range(1, 21)))

    with pytest.raises(DataError, match="not the list that was drawn"):
        read_episodes(path, n_shot=1, episodes=1, recorded_hash=episodes_hash(drawn))

    write_episodes(path, drawn)
    assert len(read_episodes(path, n_shot=1, episodes=1, recorded_hash=episodes_hash(drawn))) == 1
