"""The suite on a Slurm cluster with two simulated GPUs, started by tests/cluster/one_node_slurm.sh."""

import itertools
import json
import os

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("FEWSHOT_SLURM" not in os.environ, reason="run tests/cluster/one_node_slurm.sh"),
]

# options for what the small cluster lacks: accounting, other users, a slow file system
SMALL = (
    "--slurm-no-account --slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 "
    "--seconds-between-status-checks 2 --latency-wait 15 --default-resources mem_mb=1000 runtime=10 "
    "--set-resources train:mem_mb=1000 train:runtime=10 evaluate:mem_mb=1000"
)


def test_the_cluster_gives_the_same_table(fresh, tmp_path):
    """All results are byte-identical to those without a cluster; concurrent jobs see different GPUs."""
    fresh.edit("train: {device: cpu}", "train: {device: auto}")  # requests GPUs; torch sees that they are simulated
    local = fresh.copy(tmp_path / "local")
    local.snakemake()
    fresh.variables["FEWSHOT_DEVICES"] = str(tmp_path / "devices")
    finished = fresh.run(f"snakemake --profile profiles/slurm {SMALL}")
    assert "slurm" in finished.text.lower()
    assert finished.work == fresh.everything
    assert fresh.digests() == local.digests()
    fresh.check_table()
    assert "Nothing to be done" in fresh.run("snakemake -n").text
    check_devices([json.loads(line) for line in (tmp_path / "devices").read_text().splitlines()])


def check_devices(jobs):
    """One GPU per training and evaluation, none for the rest, none shared by concurrent jobs."""
    with_gpu = [job for job in jobs if job["stage"] in ("train", "evaluate")]
    assert len(with_gpu) == 6
    assert {job["devices"] for job in with_gpu} <= {"0", "1"}  # only "0" if a busy machine runs them one by one
    assert not any(job["devices"] for job in jobs if job not in with_gpu)
    for one, other in itertools.combinations(with_gpu, 2):
        together = one["began"] < other["ended"] and other["began"] < one["ended"]
        assert not (together and one["devices"] == other["devices"])
