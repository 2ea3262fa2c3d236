"""The benchmark for GPUs, in its tiny form on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.gpu.agreement import CPU, compare
from benchmarks.gpu.families import ADAPTIVE, EPISODIC, ON_MINIBATCHES, Scale, trainings
from benchmarks.gpu.findings import Case, Finding, run_cases
from benchmarks.gpu.hours import estimates
from benchmarks.gpu.tables import write_documents
from benchmarks.gpu.timing import FlopCounter, covered

ROOT = Path(__file__).parents[2]
TINY = Scale(CPU, tiny=True)
MINI = "mini_imagenet-conv4_64-ridge-metaoptnet-s0"
PROTOTYPE = "mini_imagenet-conv4_64-prototype-metaoptnet-s0"


def test_a_tiny_run_checks_and_times_one_family(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--only", "conv4_64 ridge"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())["findings"]
    assert {"agreement", "determinism", "timing", "original"} == {finding["part"] for finding in found}
    assert "| conv4_64 ridge, 1-shot, 16 px | float32 |" in (tmp_path / "gpu.md").read_text()


def test_an_unknown_part_is_refused():
    command = [sys.executable, "-m", "benchmarks.gpu", "--parts", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown part speed; allowed: card, agreement, determinism, timing, original" in done.stderr


def test_one_broken_case_does_not_hide_the_others():
    def broken():
        raise RuntimeError("no kernel")

    cases = [Case("timing", "first", broken), Case("timing", "second", lambda: ("fine", True, {}))]
    assert [(found.passed, found.text) for found in run_cases(cases, 0, float("inf"))] == [
        (False, "RuntimeError: no kernel"),
        (True, "fine"),
    ]


def test_cases_after_the_deadline_are_not_run():
    found = run_cases([Case("timing", "late", lambda: pytest.fail("was run"))], 0, 0)
    assert found[0].numbers == {"skipped": True}


@pytest.mark.parametrize(("error", "passes"), [(0.0, True), (1e-4, False), (float("nan"), False)])
def test_float64_must_agree_strictly(error, passes):
    calls = []

    def run(device, dtype):
        calls.append(dtype)
        return [torch.ones(3, dtype=dtype) + (error if len(calls) == 2 else 0.0)]

    assert compare(TINY, run)[1] is passes


def test_overlapping_intervals_count_once():
    assert covered([(5, 7), (0, 3), (2, 4), (2, 3)]) == 6


def test_products_are_counted_with_their_backward_pass():
    a, b = torch.ones(2, 3, requires_grad=True), torch.ones(3, 5, requires_grad=True)
    with FlopCounter() as counter:
        (a @ b).sum().backward()
    assert counter.flop == 3 * 2 * 2 * 3 * 5


def test_hours_are_steps_and_validations():
    numbers = {"training": MINI, "form": "float32", "step_s": 0.06, "images": 440, "validation_s": 60.0}
    found = {estimate.training: estimate for estimate in estimates([Finding("timing", "", "", None, numbers)])}
    assert found[MINI].hours == {"float32": pytest.approx((60_000 * 0.06 + 60 * 60) / 3600)}
    assert (found[MINI].source, found[PROTOTYPE].source) == ("timed", "scaled")
    assert "cifar_fs-resnet12-svm-metaoptnet_cifar_fs-s0" not in found


def test_every_training_can_be_estimated_from_the_timed_ones():
    timed = [
        Finding("timing", "", "", None, {"training": name, "form": "float32", "step_s": 1.0, "images": 1})
        for name in (*EPISODIC, *ADAPTIVE, *ON_MINIBATCHES)
    ]
    assert {estimate.training for estimate in estimates(timed)} == trainings().keys()


@pytest.fixture
def docs(tmp_path):
    """Return a folder of documents with an empty block."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "gpus.md").write_text("Before.\n<!-- gpu -->\nold\n<!-- end of gpu -->\nAfter.\n")
    return tmp_path


TIMED = Finding(
    "timing",
    "",
    "",
    None,
    {
        "training": MINI,
        "label": "conv4",
        "form": "tf32",
        "precision": "tf32",
        "step_s": 0.06,
        "images": 440,
        "flop": 6e12,
    },
)
ABOUT = {"device": "a card", "torch": "2", "tiny": False}


def test_documents_show_what_was_timed(docs):
    write_documents(ABOUT, [TIMED], docs)
    write_documents(ABOUT, [TIMED], docs)
    text = (docs / "gpus.md").read_text()
    assert text.startswith("Before.\n<!-- gpu -->\nOn one a card (torch 2)")
    assert text.endswith("| conv4 | 60.0, 1.00 |\n<!-- end of gpu -->\nAfter.\n")
    assert "| conv4 | tf32 | 60.0 |" in (docs / "benchmarks" / "gpu.md").read_text()


def test_a_document_without_a_block_is_refused(docs):
    (docs / "gpus.md").write_text("Nothing.\n")
    with pytest.raises(SystemExit, match=r"gpus.md: has no lines <!-- gpu -->"):
        write_documents(ABOUT, [TIMED], docs)


def test_share_of_the_card_is_that_of_the_same_precision(docs):
    card = [
        Finding("card", "", "", None, {"precision": name, "flop_per_s": rate})
        for name, rate in (("float32", 5e13), ("tf32", 4e14))
    ]
    write_documents(ABOUT, [*card, TIMED], docs)
    assert "| 100 | 25% |" in (docs / "benchmarks" / "gpu.md").read_text()
