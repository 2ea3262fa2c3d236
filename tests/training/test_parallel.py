"""Training on several devices gives the gradients and weights of one process, ends cleanly and never hangs."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import active_children

import pytest
import torch
from safetensors.torch import load_file

from fewshot.errors import NumericalError, ParamsError, ResourceError
from fewshot.experiments.build import initial_learner
from fewshot.training.launch import train_on_devices
from fewshot.training.outer_step import OuterStep, training_batch
from fewshot.training.parallel import SINGLE_PROCESS, ProcessGroup
from fewshot.training.state import Checkpoints
from fewshot.training.stop_signals import Interrupted
from fewshot.training.train import train

CPU = torch.device("cpu")
NEVER = math.inf

# Learner, backbone: batch-norm statistics by batch (conv4), none (pixels), an inner loop (maml).
CASES = [("ridge", "pixels"), ("ridge", "conv4"), ("maml", "conv4_maml")]

# Results of a step in float64 for each case: gradients, parameters, buffers, loss and accuracy.
ONE_STEP = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from fewshot.datasets.store import open_store
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Params
from fewshot.settings import parse_as
from fewshot.training.parallel import joined
from fewshot.experiments.build import initial_learner
from fewshot.training.outer_step import OuterStep
torch.set_num_threads(1)
suites, store = json.loads(sys.argv[1]), open_store(Path(sys.argv[2]))
folder, rank = Path(sys.argv[3]), int(sys.argv[4])
CPU = torch.device("cpu")

def in_double(batch):
    return replace(batch, support_images=batch.support_images.double(), query_images=batch.query_images.double())

def one_step(values, processes):
    experiment = suite_experiments(parse_as(Params, values, where=""), "tiny")[0]
    learner = initial_learner(experiment).double()
    outer_step = OuterStep(experiment, store.split("train"), learner, processes)
    prepare = outer_step.preprocess
    outer_step.preprocess = lambda batch, training: in_double(prepare(batch, training=training))
    sums = outer_step.take(0)
    processes.check_agreement(learner)
    gradients = {name: value.grad for name, value in learner.named_parameters()}
    return gradients, learner.state_dict(), sums

with joined(rank, 2, CPU, folder / "rendezvous") as processes:
    torch.save([one_step(values, processes) for values in suites], folder / f"rank-{rank}.pt")
    assert processes.agree_to_stop("SIGTERM" if rank else None) == "SIGTERM"
    weights = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(weights.weight, 1 + rank * 1e-7)
    try:
        processes.check_agreement(weights)
    except Exception as error:
        (folder / f"refused-{rank}.txt").write_text(str(error))
"""


@pytest.fixture(scope="module")
def steps(tiny_params, tiny_store, tmp_path_factory):
    """Return, for ranks 0 and 1, the results of a step of each case."""
    folder = tmp_path_factory.mktemp("steps")
    recipe = {"meta_batch": 4, "devices": 2}
    suites = json.dumps([tiny_params(*case, recipe=recipe) for case in CASES])
    ranks = [
        subprocess.Popen([sys.executable, "-c", ONE_STEP, suites, str(tiny_store.directory), str(folder), str(rank)])
        for rank in range(2)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    refused = [(folder / f"refused-{rank}.txt").read_text() for rank in range(2)]
    assert all("the weights on the 2 devices have diverged (weight)" in text for text in refused)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def in_double(batch):
    changed = {name: getattr(batch, name).double() for name in ("support_images", "query_images")}
    return type(batch)(**{**vars(batch), **changed})


def one_process(experiment, store):
    """Return the outer step in float64 of one process, which computes the shares one after the other."""
    outer_step = OuterStep(experiment, store.split("train"), initial_learner(experiment).double())
    prepare = outer_step.preprocess
    outer_step.preprocess = lambda batch, training: in_double(prepare(batch, training=training))
    return outer_step


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_weights_are_those_of_one_process(case, steps, tiny_experiment, tiny_store):
    recipe = {"meta_batch": 4, "episodes_per_backward": 1 if case[0] == "maml" else 2}
    outer_step = one_process(tiny_experiment(*case, recipe=recipe), tiny_store)

    expected_sums = outer_step.take(0)

    for rank in range(2):
        gradients, state, sums = steps[rank][CASES.index(case)]
        for name, parameter in outer_step.learner.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-12, atol=1e-15)
            torch.testing.assert_close(state[name], parameter.detach(), rtol=1e-12, atol=1e-15)
        (loss, accuracy), (expected_loss, expected_accuracy) = sums, expected_sums
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert accuracy == pytest.approx(expected_accuracy, rel=1e-7)  # a mean of means in float32


def test_running_statistics_are_the_mean_over_the_devices(steps, tiny_experiment, tiny_store):
    experiment = tiny_experiment("ridge", "conv4", recipe={"meta_batch": 4, "devices": 2})
    per_device = []
    for share in training_batch(experiment, tiny_store.split("train"), 0).chunks(2):
        outer_step = one_process(experiment, tiny_store)
        outer_step.learner.train().loss(outer_step.preprocess(share, training=True), 0)
        per_device.append(dict(outer_step.learner.named_buffers()))

    running = [name for name in per_device[0] if "running" in name]

    assert running
    for name in running:
        expected = (per_device[0][name] + per_device[1][name]) / 2
        assert not torch.equal(per_device[0][name], per_device[1][name])
        for rank in range(2):
            torch.testing.assert_close(steps[rank][1][1][name], expected, rtol=1e-12, atol=1e-15)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return the folder for the training runs of this module."""
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture(scope="module")
def run_on_two(tiny_store, root):
    """Return a function that trains with two processes and returns the folder of results and the facts."""

    def train_in(experiment, name="run", checkpoint_seconds=NEVER, timeout=timedelta(minutes=5)):
        out, checkpoints = root / name / "out", root / name / "checkpoints"
        out.mkdir(parents=True, exist_ok=True)
        checkpoints.mkdir(exist_ok=True)
        facts = train_on_devices(
            experiment,
            tiny_store,
            out,
            Checkpoints(checkpoints, checkpoint_seconds),
            [CPU, CPU],
            threads=1,
            timeout=timeout,
        )
        return out, facts

    return train_in


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def when_under_way(checkpoints, act):
    """Call `act` from another thread as soon as a new checkpoint is written."""
    path = checkpoints / "checkpoint.pt"
    before = path.stat().st_mtime_ns if path.exists() else 0

    def watch():
        end = time.monotonic() + 300
        while time.monotonic() < end and not (path.exists() and path.stat().st_mtime_ns > before):
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def kill_rank_1():
    os.kill(max(child.pid for child in active_children()), signal.SIGKILL)


LONG = {"epochs": 12, "steps_per_epoch": 10, "keep_checkpoints": 12, "augmentation": {"crop_padding": 2, "flip": True}}


@pytest.fixture(scope="module")
def whole_run(tiny_experiment, run_on_two):
    """Return results and facts of an uninterrupted training on two processes; all epochs are kept."""
    return run_on_two(tiny_experiment("ridge", recipe={**LONG, "devices": 2}), "whole")


def test_weights_of_every_epoch_are_those_of_one_process(whole_run, tiny_experiment, tiny_store, tmp_path):
    shared, facts = whole_run
    experiment = tiny_experiment("ridge", recipe={**LONG, "episodes_per_backward": 1})
    alone, checkpoints = tmp_path / "alone", tmp_path / "checkpoints"
    alone.mkdir()
    checkpoints.mkdir()

    train(experiment, tiny_store, alone, Checkpoints(checkpoints))

    assert losses(shared) == losses(alone)
    for epoch in range(1, 13):
        expected, found = (load_file(out / "ensemble" / f"epoch-{epoch}.safetensors") for out in (alone, shared))
        statistics = {name for name in expected if "running" in name or "num_batches" in name}
        assert all(torch.equal(found[name], expected[name]) for name in expected.keys() - statistics)
    assert facts["devices"] == 2
    assert facts["batch_norm_statistics"].endswith("on one device; running statistics: mean over 2 devices")


@pytest.mark.slow
def test_a_run_that_was_stopped_killed_and_resumed_is_byte_identical(whole_run, tiny_experiment, run_on_two, root):
    whole, _ = whole_run
    experiment = tiny_experiment("ridge", recipe={**LONG, "devices": 2})
    checkpoints = root / "stopped" / "checkpoints"

    with when_under_way(checkpoints, terminate), pytest.raises(Interrupted, match="SIGTERM: stopped after step"):
        run_on_two(experiment, "stopped", checkpoint_seconds=0)
    with (
        when_under_way(checkpoints, kill_rank_1),
        pytest.raises(ResourceError, match="process of device 1 of 2 was killed by SIGKILL; the same command resumes"),
    ):
        run_on_two(experiment, "stopped", checkpoint_seconds=0)
    assert not active_children()
    resumed, resumed_facts = run_on_two(experiment, "stopped")

    assert files(resumed) == files(whole)
    assert 0 < resumed_facts["resumed_at_step"] < 120
    assert not list(checkpoints.glob("ranks-*"))


def losses(out):
    with (out / "history.csv").open(newline="") as file:
        return [(row["train_loss"], row["train_accuracy"]) for row in csv.DictReader(file)]


def test_an_error_of_a_rank_is_reported_as_in_one_process(tiny_experiment, run_on_two):
    experiment = tiny_experiment(recipe={"devices": 2, "learning_rate": 100.0, "weight_decay": 1.0, "epochs": 9})

    with pytest.raises(NumericalError, match=r"(?s)lower.*recipes\.quick\.learning_rate"):
        run_on_two(experiment)
    assert not active_children()


@pytest.mark.parametrize("devices", [3, 4])
def test_devices_must_divide_the_meta_batch(devices, tiny_experiment):
    with pytest.raises(ParamsError, match=rf"devices: {devices} does not divide meta_batch 2"):
        tiny_experiment(recipe={"devices": devices})


def test_a_single_process_sends_nothing():
    assert list(SINGLE_PROCESS.share(4)) == [0, 1, 2, 3]
    assert SINGLE_PROCESS.sum(0.25, 1.0) == [0.25, 1.0]
    assert SINGLE_PROCESS.agree_to_stop(None) is None
    assert not torch.distributed.is_initialized()


def test_a_rank_gathers_only_its_own_episodes(tiny_experiment, tiny_store):
    experiment, split = tiny_experiment(recipe={"meta_batch": 4}), tiny_store.split("train")
    whole = training_batch(experiment, split, step=3)

    shares = [training_batch(experiment, split, 3, ProcessGroup(rank=rank, size=2).share(4)) for rank in (0, 1)]

    assert [len(share) for share in shares] == [2, 2]
    assert torch.equal(torch.cat([share.query_images for share in shares]), whole.query_images)
    assert torch.equal(torch.cat([share.episode_ids for share in shares]), whole.episode_ids)
