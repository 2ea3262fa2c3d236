"""What `make doctor` finds, and that it needs nothing installed."""

import os
import platform
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from fewshot import __main__ as entry
from fewshot import doctor
from fewshot.cli import main

SCRIPT = Path(doctor.__file__)
Usage = namedtuple("Usage", "total used free")


def finding(what, environment=Path("none")):
    [found] = [found for found in doctor.examine(Path(), environment) if found.what == what]
    return found


def test_it_runs_without_any_package(tmp_path):
    done = subprocess.run([sys.executable, "-I", "-S", SCRIPT, tmp_path, tmp_path], capture_output=True, text=True)

    assert done.stderr == ""
    assert "ok       Python " in done.stdout
    assert f"note     environment   none in {tmp_path}; make run installs it" in done.stdout
    assert done.stdout.endswith("\nnothing required is missing\n") == (done.returncode == 0)


def test_the_command_looks_at_the_environment_it_runs_in(capsys):
    main(["doctor"])
    assert "environment   torch " in capsys.readouterr().out


def test_little_disk_space_is_named_with_the_need(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9e9, 4e9, 5e9))
    assert finding("disk")[:3] == ("MISSING", "disk", "5.0 GB free")
    assert "7.5 GB are needed" in finding("disk").advice


def test_an_installed_environment_needs_no_more_space(monkeypatch, tmp_path):
    (tmp_path / "lib/python3.11/site-packages/torch").mkdir(parents=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9e9, 4e9, 5e9))
    assert finding("disk", tmp_path).state == "ok"
    assert finding("environment", tmp_path)[0] == "MISSING", "it has no Python"


def test_an_old_python_is_told_which_one_to_install(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    assert finding("Python").state == "MISSING"
    assert finding("Python").advice == "install 3.11 or newer, then: make run PYTHON=python3.11"


@pytest.mark.parametrize(("driver", "state"), [("570.86.10", "note"), ("580.65.06", "ok")])
def test_the_driver_of_a_gpu_must_be_new_enough(monkeypatch, driver, state):
    printed = f"NVIDIA H100 80GB HBM3, 81559 MiB, {driver}\nNVIDIA H100 80GB HBM3, 81559 MiB, {driver}"
    monkeypatch.setattr(doctor, "_output", lambda command: printed)
    card = "NVIDIA H100 80GB HBM3 (81559 MiB)"
    assert finding("GPU")[:3] == (state, "GPU", f"{card}, {card}; driver {driver}")


def test_missing_git_fails_and_a_missing_browser_does_not(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor.main() == 1
    printed = capsys.readouterr().out
    assert "MISSING  git" in printed
    assert "note     browser" in printed
    assert printed.endswith("\nmissing: git\n")


def test_windows_is_refused_at_the_door(monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    with pytest.raises(SystemExit, match=r"error: the workflow needs Linux or macOS, not Windows: .* WSL 2"):
        entry.main()
