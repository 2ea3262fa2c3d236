"""Freed memory is kept, so that later passes cause no page faults."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from fewshot.training.allocator import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
for _ in range(10):
    torch.zeros(16, 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.zeros(16, 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep):
    run = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_large_blocks_are_reused():
    assert page_faults(keep=True) < 0.1 * page_faults(keep=False)
