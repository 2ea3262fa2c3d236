"""Locks of running and of killed Snakemakes: who is told what, and which locks are removed."""

import json
import os
import platform
import signal
import subprocess
import sys

import pytest

from fewshot.workflow.running import SNAKEMAKE_DIR, describe_conflict, register, this_command

REGISTER = "import time; from fewshot.workflow.running import register; kept = register(); print('ready', flush=True); "


@pytest.fixture
def lock(project):
    """Return a lock file as Snakemake writes it."""
    file = SNAKEMAKE_DIR / "locks" / "0.input.lock"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


@pytest.fixture
def other():
    """Return a process that has registered itself in the working directory, as a Snakemake does."""
    process = subprocess.Popen([sys.executable, "-c", f"{REGISTER}time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


def test_a_running_snakemake_keeps_its_lock_and_is_named(project, other):
    lock = SNAKEMAKE_DIR / "locks" / "0.input.lock"
    lock.parent.mkdir()
    lock.touch()

    _, removed = register()

    assert removed == 0
    assert lock.exists()
    assert f"process {other.pid}, since " in describe_conflict()
    assert f"kill {other.pid}" in describe_conflict()


def test_the_lock_of_a_killed_snakemake_is_removed(project, other):
    lock = SNAKEMAKE_DIR / "locks" / "0.input.lock"
    lock.parent.mkdir()
    lock.touch()
    other.send_signal(signal.SIGKILL)
    other.wait()

    _, removed = register()

    assert removed == 1
    assert not lock.exists()


def test_a_lock_from_another_machine_is_kept_until_the_user_removes_it(lock):
    record = SNAKEMAKE_DIR / "running" / "far-7.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"process": 7, "machine": "far", "since": "12:00", "command": "snakemake"}))

    assert register()[1] == 0
    assert "process 7 on far, since 12:00" in describe_conflict()
    assert "if it was killed, remove its lock: snakemake --unlock" in describe_conflict()

    lock.unlink()
    register()
    assert not record.exists()


def test_a_record_that_was_cut_off_does_not_block(lock):
    (SNAKEMAKE_DIR / "running").mkdir()
    (SNAKEMAKE_DIR / "running" / f"{platform.node()}-7.json").write_text('{"process"')

    assert register()[1] == 1


def test_a_folder_that_cannot_be_written_is_no_error(project):
    SNAKEMAKE_DIR.touch()

    assert register() == (None, 0)


@pytest.mark.parametrize(
    ("variables", "command"),
    [({}, "snakemake --cores 2 'a b'"), ({"DVC_ROOT": "."}, "dvc repro"), ({"MAKELEVEL": "1"}, "make run")],
)
def test_the_command_is_the_one_the_user_typed(variables, command, monkeypatch):
    for name in ("DVC_ROOT", "MAKELEVEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setitem(os.environ, name, value)
    monkeypatch.setattr(sys, "argv", ["/venv/bin/snakemake", "--cores", "2", "a b"])

    assert this_command() == command
