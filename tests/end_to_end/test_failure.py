"""If one experiment fails, the others finish, the table says what is missing, and a rerun runs only that."""

import json
import re
import subprocess
from collections import Counter
from contextlib import contextmanager, suppress

import pytest
import torch

from fewshot.weights.checkpoint import save_checkpoint

BROKEN = "shapes-conv4-ridge-diverging-s0"


def break_one(project):
    """Make the second experiment of the suite diverge within a few steps."""
    project.edit(
        "learner: [prototype, ridge], recipe: quick}",
        "learner: prototype, recipe: quick}\n    - {dataset: shapes, learner: ridge, recipe: diverging}",
    )
    project.edit(
        "  untrained:",
        "  diverging: {base: quick, optimizer: sgd, learning_rate: 100.0, weight_decay: 1.0, steps_per_epoch: 40}\n"
        "  untrained:",
    )


@pytest.mark.slow
def test_the_others_finish(made):
    """`snakemake` finishes everything else, writes a partial table, exits with 1 and keeps the full table."""
    before = made.digests("results/tables")
    break_one(made)
    made.edit("recipe: untrained}", "recipe: untrained, seed: [0, 1]}")
    failed = made.try_run("snakemake --cores 2")
    new = "shapes-pixels-prototype-untrained-s1"
    assert failed.status == 1
    assert failed.work == Counter([f"train {BROKEN}", f"train {new}", f"evaluate {new}"])
    assert set(made.table(where="partial")) == {made.PROTOTYPE, made.PIXELS, new}
    assert made.digests("results/tables") == before

    assert f"{BROKEN} on shapes: error: {BROKEN}: " in failed.text  # why
    assert f"log logs/train/{BROKEN}-" in failed.text
    assert f"run: snakemake --cores 1 {BROKEN}" in failed.text
    assert "lower recipes.diverging.learning_rate" in failed.text
    assert "Fix the failure, then finish the suite: snakemake --cores all" in failed.text

    again = made.try_run("snakemake --cores 2")
    assert (again.status, again.work) == (1, Counter([f"train {BROKEN}"]))

    made.edit("learning_rate: 100.0", "learning_rate: 0.001")
    assert made.snakemake().work == made.chain(BROKEN)
    made.check_table()


@pytest.mark.slow
def test_dvc_names_the_command_that_finishes_the_rest(made):
    """`dvc repro` stops at the failed stage, after all other trainings, and names the command for the rest."""
    break_one(made)
    made.edit("recipe: untrained}", "recipe: untrained, seed: [0, 1]}")
    failed = made.try_run("dvc repro")
    new = "shapes-pixels-prototype-untrained-s1"
    assert failed.status != 0
    assert failed.work == Counter([f"train {BROKEN}", f"train {new}"])
    assert "failed to reproduce 'train'" in failed.text
    assert "finish the suite: snakemake --cores all --config suite=tiny" in failed.text
    assert "Traceback" not in failed.text

    finished = made.try_run("snakemake --cores all --config suite=tiny")
    assert finished.work == Counter([f"train {BROKEN}", f"evaluate {new}"])
    assert json.loads(made.read("results/partial/tiny/manifest.json"))["missing"] == [f"{BROKEN} on shapes"]


@pytest.mark.slow
def test_no_network(made):
    """A failed download stops only its own experiments; the table says what to download manually."""
    made.edit("recipe: untrained}", "recipe: untrained}\n    - {dataset: omniglot, learner: ridge, recipe: quick}")
    made.variables = {"HTTPS_PROXY": "http://127.0.0.1:9"}  # nothing listens there
    failed = made.try_run("snakemake --cores 2")
    assert failed.status == 1
    assert failed.work == made.NOTHING
    assert "omniglot-conv4-ridge-quick-s0 on omniglot: By hand: fetch images_background.zip" in failed.text
    assert "log logs/download/omniglot-" in failed.text
    assert set(made.table(where="partial")) == {made.PROTOTYPE, made.RIDGE, made.PIXELS}


def test_a_job_killed_by_the_system(made):
    """A killed process cannot log its end; the log and the partial table still report it."""
    made.edit("ridge: 50.0", "ridge: 20.0")
    # the job kills itself as the system does when memory runs out
    loop = made.folder / "src/fewshot/training/train.py"
    loop.write_text(f"import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n{loop.read_text()}")
    failed = made.try_run(f"snakemake --cores 2 {made.RIDGE}")
    assert failed.status == 1
    assert f"{made.RIDGE} on shapes: killed by signal 9" in failed.text
    assert "ran out of memory" in failed.text


@contextmanager
def small_disk(folder, options):
    """Mount a small disk; skip the test without permission to mount."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs permission to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_the_reason_given_by_a_checkpoint(tmp_path):
    """torch reports it as an internal error of its file format; nothing unfinished stays on the disk."""
    disk = tmp_path / "disk"
    with small_disk(disk, "size=64k"):
        with pytest.raises(OSError, match="No space left on device"):
            save_checkpoint(disk / "checkpoint.pt", {"weights": torch.zeros(100_000)})
        assert not list(disk.iterdir())


@pytest.mark.parametrize(("options", "reason"), [("size=16k", "No space left"), ("ro", "Read-only file system")])
def test_snakemake_that_cannot_write_its_own_files(made, options, reason):
    """It ends with one line, and no traceback."""
    folder = made.folder / ".snakemake"
    made.edit("ridge: 50.0", "ridge: 20.0")
    with small_disk(folder, options):
        for number in range(5) if options != "ro" else ():
            with suppress(OSError):
                (folder / f"other{number}").write_bytes(bytes(4096))
        failed = made.try_run("snakemake --cores 2")
    assert failed.status == 1
    assert re.search(rf"cannot write \S+: {reason}", failed.text), failed.text
    assert "Traceback" not in failed.text


@pytest.mark.parametrize(
    ("options", "complaint", "advice"),
    [
        ("size=8k", "the disk is full", "'fewshot prune' lists results"),
        ("ro", "cannot be written (Read-only file system)", "fix its permissions"),
    ],
)
def test_disks(made, options, complaint, advice):
    """A full disk or read-only folder stops one job with one clear line; with space freed, it resumes."""
    made.edit("ridge: 50.0", "ridge: 20.0")
    with small_disk(made.folder / "cache" / "train" / made.train_key(made.RIDGE), options):
        failed = made.try_run(f"fewshot train {made.RIDGE}")
        assert failed.status == 2
        assert complaint in failed.text
        assert advice in failed.text
        assert "Traceback" not in failed.text
    made.run(f"fewshot train {made.RIDGE}")
