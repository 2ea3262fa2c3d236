"""docs/how-to-add.md, followed step by step: files are written, entries added, commands run."""

import json
import math
import re

import pytest

PAGE = "docs/how-to-add.md"
PLACE = re.compile(r"# (\S+\.(?:py|yaml))\n")
RUN_COMMANDS = "import sys; from fewshot.cli import main; [main(line.split()[1:]) for line in sys.argv[1:]]"
LIST = ["fewshot list --suite quickstart", "fewshot list --suite cxgrad"]
EXPERIMENTS = ("stars-conv6-neighbors-first_try-filters16-sharpness5.0-s0", "stars-conv4_maml-proto_maml-first_try-s0")


def add_entry(text, addition):
    """Return text with the `+` lines of an addition; its other lines give the place, each as the start of one line."""
    lines, before, place = text.splitlines(), [], None
    for line in addition.splitlines():
        if line.startswith("+") and place is None:
            before.append(line[1:])
        elif line.startswith("+"):
            lines.insert(place, line[1:])
            place += 1
        else:
            (at,) = [i for i, found in enumerate(lines) if found.startswith(line[1:])]
            lines[at:at] = before
            place, before = at + len(before) + 1, []
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def parts(code_blocks):
    """Return (path, text) of every file and of every entry on the page."""
    blocks = code_blocks(PAGE)
    files = [(PLACE.match(text)[1], text) for language, text in blocks if language == "python"]
    entries = [(PLACE.match(text)[1], text.partition("\n")[2]) for language, text in blocks if language == "diff"]
    return files, entries


@pytest.fixture(scope="module")
def added(project_copy, run_python, parts, code_blocks):
    """Return the folder with all parts added, the output of the commands, and other suites' keys before and after."""
    folder = project_copy()
    keys_before = run_python(folder, "-c", RUN_COMMANDS, *LIST)
    files, entries = parts
    for place, text in files:
        (folder / place).write_text(text, encoding="utf-8")
    for place, text in entries:
        (folder / place).write_text(add_entry((folder / place).read_text(encoding="utf-8"), text), encoding="utf-8")
    (commands,) = [text for language, text in code_blocks(PAGE) if language == "sh" and text.startswith("fewshot")]
    printed = run_python(folder, "-c", RUN_COMMANDS, *commands.splitlines())
    return folder, printed, (keys_before, run_python(folder, "-c", RUN_COMMANDS, *LIST))


def test_each_part_is_one_file_and_one_entry(parts, root):
    files, entries = parts
    assert [place.split("/")[2] for place, _ in files] == ["heads", "backbones", "learners", "datasets"]
    assert [place.rpartition("/")[0] for place, _ in entries] == [*(place.rpartition("/")[0] for place, _ in files), ""]
    assert not [place for place, _ in files if (root / place).exists()]


def test_plan_finds_the_new_parts(added):
    _, printed, _ = added
    assert "suite mine: 2 experiments" in printed
    assert all(name in printed for name in EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_new_parts_are_trained_and_evaluated(added, name):
    folder, _, _ = added
    (run,) = (folder / "results" / "train" / name).glob("*/run.json")
    (evaluation,) = (folder / "results" / "evaluate" / name).glob("*/stars.json")
    assert (run.parent / "history.csv").read_text().splitlines()[1].startswith("1,3,")
    for result in json.loads(evaluation.read_text())["results"]:
        assert 0.1 < result["accuracy"] < 1
        assert math.isfinite(result["ci95"])


def test_new_parts_do_not_change_the_keys_of_other_experiments(added):
    _, _, (before, after) = added
    assert before == after


@pytest.mark.slow
def test_registry_tests_cover_the_new_parts(added, run_python, root, code_blocks):
    folder, _, _ = added
    (command,) = [text for language, text in code_blocks(PAGE) if language == "sh" and text.startswith("pytest")]
    families = ["tests/heads", "tests/backbones", "tests/learners"]
    assert command.startswith(f"pytest {' '.join(families)} -k ")
    wanted = command.partition('-k "')[2].rstrip('"\n')
    arguments = ["-k", wanted, "-p", "no:cacheprovider", *(str(root / family) for family in families)]
    printed = run_python(folder, "-m", "pytest", "--rootdir", str(root), "-c", str(root / "pyproject.toml"), *arguments)
    assert "passed" in printed
