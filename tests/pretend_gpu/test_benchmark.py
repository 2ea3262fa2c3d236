"""The benchmark for GPUs on the pretend GPU: it moves what it compares to the device, and its checks pass there."""

import time

import pytest
from benchmarks.gpu import agreement
from benchmarks.gpu.families import Scale
from benchmarks.gpu.findings import run_cases

FAMILIES = ("augmentation", "head ridge", "backbone conv4,", "conv4_64 svm", "conv4_maml_bias alfa")


@pytest.mark.slow
@pytest.mark.long
def test_the_pretend_gpu_agrees_with_the_cpu(gpu):
    cases = agreement.cases(Scale(gpu.device, tiny=True))
    chosen = [case for case in cases if any(name in f"{case.name}," for name in FAMILIES)]
    found = run_cases(chosen, time.monotonic(), float("inf"))
    assert len(found) > 6
    assert [case.text for case in found if not case.passed] == []
