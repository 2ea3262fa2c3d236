"""docs/export.md, followed step by step: export, classify images in class folders, write and read episodes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fewshot.datasets.store import open_store

PAGE = "docs/export.md"
EXPERIMENT = "glyphs-conv4-ridge-quick-s0"
RUN_COMMANDS = "import sys; from fewshot.cli import main; [main(line.split()[1:]) for line in sys.argv[1:]]"
SORTED = {"cup": "1.jpg", "lamp": "2.jpg", "shoe": "3.png"}
COLOURS = {"cup": (200, 30, 30), "lamp": (30, 200, 30), "shoe": (30, 30, 200)}


EPISODES = "Test episodes for other libraries"  # section of the page


def blocks_of(code_blocks, language, section=""):
    return [text for found, text in code_blocks(PAGE, section) if found == language]


@pytest.fixture(scope="module")
def folder(copy_with_weights):
    """Return a project copy with one experiment, which has random weights, and images in class folders."""
    folder = copy_with_weights(EXPERIMENT)
    for name, number in [(name, number) for name in COLOURS for number in range(3)]:
        labelled = folder / "examples" / name / f"{'_ab'[number]}.png"
        path = labelled if number else folder / "sort_these" / SORTED[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).normal(0, 15, (40, 60, 3))
        Image.fromarray(np.clip(COLOURS[name] + noise, 0, 255).astype(np.uint8)).save(path)
        (path.parent / ".DS_Store").write_bytes(b"left by a file manager")
    return folder


def test_images_in_class_folders_are_sorted(folder, run_python, code_blocks):
    export, command = blocks_of(code_blocks, "sh")[:2]
    run_python(folder, "-c", RUN_COMMANDS, export.strip())
    at_once, program, _ = blocks_of(code_blocks, "python")
    name, *arguments = command.split()[1:]
    (folder / name).write_text(program, encoding="utf-8")
    answers, message = blocks_of(code_blocks, "text")
    assert run_python(folder, "-c", at_once) == answers
    assert run_python(folder, name, *arguments) == answers

    (folder / "sort_these" / "notes.txt").write_text("no image")
    assert run_python(folder, name, *arguments, status=1) == message


@pytest.mark.slow
def test_episodes_are_written_checked_and_read(folder, run_python, code_blocks):
    printed = run_python(folder, "-c", RUN_COMMANDS, *blocks_of(code_blocks, "sh", EPISODES)[0].splitlines())
    assert "intact, matches glyphs; 1000 episodes, the frozen list of this suite" in printed

    (manifest,) = (folder / "results" / "prepare" / "glyphs").glob("*/manifest.json")
    header, first = [json.loads(line) for line in (folder / "episodes.jsonl").read_text("utf-8").splitlines()[:2]]
    assert header["episodes_hash"] in json.loads(manifest.read_text())["episode_lists"].values()
    (store,) = (folder / "data" / "prepared" / "glyphs").glob("[!.]*")
    split = open_store(store).split("test")
    assert [split.source_ids[row] for row in first["query"]["rows"]] == first["query"]["sources"]

    reading = blocks_of(code_blocks, "python", EPISODES)[0]
    done = subprocess.run([sys.executable, "-c", reading], cwd=folder, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1000
