"""Entries that version 0.1.0 stored as cache/<stage>/<name>/<key>/ are moved to their key, and none is lost."""

from pathlib import Path

import pytest
from filelock import FileLock

from fewshot.cli import main
from fewshot.workflow.old_layout import move_old_entries, old_entries
from fewshot.workflow.results import names_in

KEY, OTHER = "0123456789ab", "ba9876543210"
PLACE = Path("cache/train", KEY)


def write(folder, text="numbers"):
    folder.mkdir(parents=True)
    (folder / "weights").write_text(text)


@pytest.mark.parametrize("inner", ["result", "checkpoints"])
def test_entries_are_moved_with_their_name(inner, project):
    write(Path("cache/train/job", KEY, inner))
    write(Path("cache/train/job", OTHER, inner))

    move_old_entries()

    assert (PLACE / inner / "weights").read_text() == "numbers"
    assert names_in(PLACE) == names_in(PLACE.with_name(OTHER)) == ["job"]
    assert not Path("cache/train/job").exists()


def test_entries_by_key_stay(project):
    write(PLACE / "result")

    move_old_entries()

    assert [path.name for path in Path("cache/train").iterdir()] == [KEY]
    assert names_in(PLACE) == []


def test_a_result_takes_precedence_over_checkpoints(project):
    write(Path("cache/train/first", KEY, "checkpoints"))
    write(Path("cache/train/second", KEY, "result"))

    move_old_entries()

    assert (PLACE / "result" / "weights").exists()
    assert (PLACE / "checkpoints" / "weights").exists()
    assert names_in(PLACE) == ["first", "second"]


def test_a_second_result_of_one_key_is_left_for_prune(project):
    write(Path("cache/train/first", KEY, "result"), "one")
    write(Path("cache/train/second", KEY, "result"), "two")

    move_old_entries()

    assert (PLACE / "result" / "weights").read_text() == "one"
    assert old_entries("train") == [Path("cache/train/second", KEY)]


def test_an_entry_in_use_stays(project):
    write(Path("cache/train/job", KEY, "checkpoints"))

    with FileLock(Path("cache/train/job", KEY, ".lock")):
        move_old_entries()
        assert old_entries("train") == [Path("cache/train/job", KEY)]
    move_old_entries()
    assert old_entries("train") == []


def test_commands_that_show_the_state_move_them(project, tiny_params):
    write(Path("cache/train/job", KEY, "result"))
    Path("params.yaml").write_text(str(tiny_params()), encoding="utf-8")

    main(["list"])

    assert (PLACE / "result" / "weights").exists()


def test_prune_keeps_what_is_needed_under_any_name_and_lists_the_rest(project, tiny_params, capsys):
    from fewshot.workflow.plan import load_plan

    Path("params.yaml").write_text(str(tiny_params()), encoding="utf-8")
    needed = load_plan().train[0]
    write(Path("cache/train/renamed", needed.key, "result"))
    write(Path("cache/train", needed.name, OTHER, "result"))
    write(Path("cache/train/gone", KEY, "result"))
    write(Path("results/train/renamed", needed.key))

    main(["prune", "--delete", "--ignore-refs"])

    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    kinds = {path: (kind, names) for _, _, kind, path, *names in listed[:-2]}
    assert kinds == {
        f"cache/train/{OTHER}": ("old", [needed.name]),
        f"cache/train/{KEY}": ("orphaned", ["gone"]),
    }
    assert (needed.cache_dir / "result" / "weights").exists()
    assert Path("results/train/renamed", needed.key, "weights").exists()
    assert not PLACE.exists()
