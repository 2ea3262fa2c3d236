"""The suite on a Slurm cluster: run by tests/cluster/one_node_slurm.sh, which starts one."""

import os

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("FEWSHOT_SLURM" not in os.environ, reason="run tests/cluster/one_node_slurm.sh"),
]

# what the small cluster lacks beside a real one: accounting, other users, a slow file system
SMALL = (
    "--slurm-no-account --slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 "
    "--seconds-between-status-checks 2 --latency-wait 15 --default-resources mem_mb=1000 runtime=10 "
    "--set-resources train:mem_mb=1000 train:runtime=10 evaluate:mem_mb=1000"
)


def test_the_cluster_makes_the_same_table(fresh, made):
    finished = fresh.run(f"snakemake --profile profiles/slurm {SMALL}")
    assert "executor: slurm" in finished.text.lower() or "slurm" in finished.text.lower()
    assert finished.work == fresh.everything
    assert fresh.digests() == made.digests()
    fresh.check_table()
    assert "Nothing to be done" in fresh.run("snakemake -n").text
