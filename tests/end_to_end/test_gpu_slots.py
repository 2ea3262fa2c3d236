"""Jobs on one machine get distinct devices; names stand in for GPUs."""

import os
import subprocess
import sys
import threading

import pytest

from fewshot.training.devices import claim_slot, physical_names

HOLD = """
import sys, time
from pathlib import Path
from fewshot.training.devices import claim_slot
device, lock = claim_slot(["0", "1"], 1, Path(sys.argv[1]))
print(device, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_idle_devices_are_used_before_second_slots(tmp_path):
    held = [claim_slot(["0", "1"], 2, tmp_path) for _ in range(4)]
    assert [device for device, _ in held] == ["0", "1", "0", "1"]


def test_a_job_waits_for_a_free_device(tmp_path):
    held = [claim_slot(["0", "1"], 1, tmp_path) for _ in range(2)]
    got = []
    waiting = threading.Thread(target=lambda: got.append(claim_slot(["0", "1"], 1, tmp_path)))
    waiting.start()
    waiting.join(timeout=1)
    assert not got
    held[1][1].release()
    waiting.join(timeout=30)
    assert got[0][0] == "1"


def test_a_killed_process_frees_its_device(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "0"
    assert claim_slot(["0", "1"], 1, tmp_path)[0] == "1"
    process.kill()
    process.wait()
    assert claim_slot(["0", "1"], 1, tmp_path)[0] == "0"


def test_visible_devices_are_the_pool(tmp_path, monkeypatch):
    """Processes that see GPUs 2, 3 and 3, 2 both number them 0 and 1, and still never share one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert physical_names(["0", "1"]) == ["2", "3"]
    first, lock = claim_slot(["0", "1"], 1, tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2")
    second, other = claim_slot(["0", "1"], 1, tmp_path)
    assert (first, second) == ("0", "0")
    assert lock.lock_file != other.lock_file


def test_cluster_allocations_do_not_wait_for_each_other(tmp_path, monkeypatch):
    """Slurm gives each job its own device and may number it 0 in every job."""
    held = []
    for job in ("7", "8"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        held.append(claim_slot(["0"], 1, tmp_path))
    assert [device for device, _ in held] == ["0", "0"]


@pytest.mark.skipif(os.name != "posix", reason="file permissions")
def test_locks_are_writable_by_every_user(tmp_path):
    _, lock = claim_slot(["0"], 1, tmp_path / "locks")
    assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777
    assert os.stat(lock.lock_file).st_mode & 0o666 == 0o666
