"""Kills at random moments: the next run resumes, never uses a partial file, and gives byte-identical results.

FEWSHOT_KILLS=<n> sets the number of kills (default 24); FEWSHOT_KILL_SEED chooses other moments.
"""

import base64
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

KILLS = int(os.environ.get("FEWSHOT_KILLS", "24"))
SEED = int(os.environ.get("FEWSHOT_KILL_SEED", "0"))

RESUMED = "resuming after step"  # followed by the step
ONE_EXPERIMENT = ("learner: [prototype, ridge], recipe: quick}", "learner: ridge, recipe: quick}")


def single(project):
    """Reduce the suite to one experiment, with a checkpoint after every step."""
    project.edit(*ONE_EXPERIMENT)
    project.edit("    - {dataset: shapes, backbone: pixels, learner: prototype, recipe: untrained}\n", "")
    project.edit("train: {device: cpu}", "train: {device: cpu, checkpoint_seconds: 0.0}")


def wait_for_log(project, pattern, text, seconds=120):
    """Wait until a log contains a text."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if any(text in log.read_text(errors="replace") for log in project.folder.glob(pattern)):
            return
        time.sleep(0.1)
    raise AssertionError(f"no {text!r} in {pattern}")


@pytest.mark.slow
@pytest.mark.long
def test_stages_killed_at_random_moments(fresh, made):
    """After SIGKILL and SIGTERM in every stage, all results equal those of an uninterrupted run."""
    single(fresh)
    driver = Path(__file__).with_name("kill_stages.py")
    ends = json.loads(
        fresh.run([sys.executable, str(driver), str(KILLS), str(SEED), fresh.RIDGE, "shapes"]).text.splitlines()[-1]
    )
    assert sum(map(len, ends.values())) == KILLS
    expected = made.digests("results/train", "results/evaluate", "results/prepare")
    found = fresh.digests("results/train", "results/evaluate", "results/prepare")
    assert found == {name: digest for name, digest in expected.items() if name in found}
    assert any(fresh.RIDGE in name for name in found)
    fresh.check_table()
    leftovers = [path for path in (fresh.folder / "results").rglob(".*") if not path.name.startswith(".key-")]
    assert not [path for path in leftovers if path.is_dir()], "a partial folder is in results/"


@pytest.mark.slow
@pytest.mark.long
def test_both_tools_killed_in_turn(fresh, made):
    """Each tool continues from where the other was killed; stale locks block neither."""
    chance = random.Random(SEED)
    fresh.edit("train: {device: cpu}", "train: {device: cpu, checkpoint_seconds: 0.0}")
    for command, number, group in (
        ("snakemake --cores 2", signal.SIGKILL, True),
        ("dvc repro", signal.SIGKILL, True),
        ("snakemake --cores 2", signal.SIGKILL, False),
        ("dvc repro", signal.SIGTERM, True),
    ):
        process = fresh.start(command)
        before = sum(fresh.work().values())
        end = time.monotonic() + 120
        while sum(fresh.work().values()) == before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)  # until the first job of this run has started
        time.sleep(chance.uniform(0, 6))
        (os.killpg if group else os.kill)(process.pid, number)
        process.communicate()
    last = fresh.repro()
    assert "Removed a stale lock" in last.text or not list((fresh.folder / ".snakemake/locks").glob("*.lock"))
    assert fresh.digests() == made.digests()
    fresh.check_table()
    assert "Nothing to be done" in fresh.run("snakemake -n").text


@pytest.mark.slow
def test_what_a_killed_run_left_does_not_hide_missing_tables(made):
    """Snakemake marks the outputs of a job that starts, and a kill leaves the mark, also if the result comes later."""
    digests = made.digests()
    weights = next(made.folder.glob("results/train/*/*/weights.safetensors")).relative_to(made.folder)
    mark = made.folder / ".snakemake/incomplete" / base64.urlsafe_b64encode(str(weights).encode()).decode()
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    shutil.rmtree(made.folder / "results/tables")
    assert "report" in made.snakemake().text
    assert made.digests() == digests


@pytest.mark.slow
def test_ctrl_c(fresh):
    """Ctrl-C saves the running trainings, ends soon and says how to resume; the next run resumes there."""
    single(fresh)
    fresh.edit("epochs: 2\n", "epochs: 400\n")
    fresh.edit("checkpoint_seconds: 0.0", "checkpoint_seconds: 3600.0")
    process = fresh.start("snakemake --cores 2")
    wait_for_log(fresh, "logs/train/*.log", "epoch 3/")
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    stop, *end = text[text.index("SIGINT: stopping") :].splitlines()
    assert stop == "SIGINT: stopping; running jobs save their state first."
    assert end[0].startswith(f"train {fresh.RIDGE}: SIGINT: stopped after step")
    assert end[1:] == [
        "Stopped by SIGINT. Finished work is kept: 1 of 1 data sets prepared, 0 of 1 models trained, "
        "0 of 1 evaluations made.",
        "Rerun the same command to resume from the last checkpoints: snakemake --cores 2",
    ]
    assert not list((fresh.folder / ".snakemake/locks").glob("*.lock"))

    process = fresh.start("snakemake --cores 2")
    wait_for_log(fresh, "logs/train/*.log", RESUMED)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_stop_during_an_evaluation(send, made):
    """SIGTERM, to Snakemake alone or to all its processes, ends the evaluation; it is not reported as a failure."""
    made.edit("  episodes: 20\n", "  episodes: 1000000\n")
    process = made.start(f"snakemake --cores 2 {made.RIDGE}")
    end = time.monotonic() + 120
    while not (partial := list(made.folder.glob("cache/evaluate/*/partial"))) and time.monotonic() < end:
        time.sleep(0.1)
    assert partial
    send(process.pid, signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"evaluate {made.RIDGE}-shapes: SIGTERM: stopped; rerun the same command to continue" in text
    assert text.splitlines()[-1].endswith(f"snakemake --cores 2 {made.RIDGE}")
    assert "Error in rule" not in text
    assert "Traceback" not in text
    assert not (made.folder / "results/partial").exists()


@pytest.mark.slow
def test_two_snakemakes_at_once(fresh):
    """The second one is told about the first, also if DVC starts it, and leaves it alone."""
    single(fresh)
    fresh.edit("epochs: 2\n", "epochs: 400\n")
    first = fresh.start("snakemake --cores 2")
    wait_for_log(fresh, "logs/train/*.log", "epoch 3/")
    for command in ("snakemake --cores 2", "dvc repro"):
        second = fresh.try_run(command)
        assert second.status != 0
        assert f"already running in this folder (process {first.pid}, since " in second.text
        assert "Traceback" not in second.text
    assert first.poll() is None
    os.killpg(first.pid, signal.SIGTERM)
    first.communicate(timeout=120)


@pytest.mark.slow
def test_terminated_training_is_reported_as_stopped(fresh):
    """If only the training process gets SIGTERM, Snakemake says how to resume and writes no partial table."""
    single(fresh)
    fresh.edit("epochs: 2\n", "epochs: 400\n")
    process = fresh.start("snakemake --cores 2")
    wait_for_log(fresh, "logs/train/*.log", "epoch 3/")
    children = psutil.Process(process.pid).children(recursive=True)
    (training,) = [child for child in children if child.cmdline()[1:4] == ["-m", "fewshot", "train"]]
    training.terminate()
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"train {fresh.RIDGE}: SIGTERM: stopped after step" in text
    assert "Stopped. Finished work is kept: 1 of 1 data sets prepared" in text
    assert "Error in rule" not in text
    assert not (fresh.folder / "results/partial").exists()


def test_sigterm_saves_first(made):
    """On SIGTERM, as sent by clusters, the state is saved at once, however old the last checkpoint is."""
    single(made)
    made.edit("epochs: 2\n", "epochs: 1\n")
    made.edit("steps_per_epoch: 3", "steps_per_epoch: 100000")
    made.edit("checkpoint_seconds: 0.0", "checkpoint_seconds: 3600.0")
    process = made.start(f"fewshot train {made.RIDGE}")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "to go" in line:
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    assert "SIGTERM: stopped after step" in lines[-1]
    step = int(lines[-1].split("after step ")[1].split(";")[0])
    again = made.start(f"fewshot train {made.RIDGE}")
    said = next(line for line in again.stdout if RESUMED in line)
    again.kill()
    again.communicate()
    assert f"{RESUMED} {step} of 100000" in said
