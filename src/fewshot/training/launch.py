"""Starts the ranks of a training that several devices share, watches over them, and says what became of them.

The processes find each other through a file in the job's checkpoint folder: no port, no host name, any number of such
trainings beside each other. This process computes nothing; it passes on signals and ends all ranks if one fails.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

from fewshot import errors
from fewshot.datasets.store import Store, open_store
from fewshot.errors import FewshotError, ResourceError
from fewshot.experiments.matrix import Experiment
from fewshot.files import read_json, write_json
from fewshot.training import devices as computing
from fewshot.training.parallel import TIMEOUT, LostContactError, ProcessGroup, joined
from fewshot.training.train import Interrupted, stop_signals, train

POLL_S = 0.2
LAST_WORDS_S = 5.0


@dataclass(frozen=True)
class _Task:
    """What every rank is told; `folder` is for the rendezvous and for what the ranks report."""

    experiment: Experiment
    store: Path
    out: Path
    checkpoints: Path
    devices: tuple[torch.device, ...]
    threads: int
    checkpoint_seconds: float
    timeout: timedelta
    folder: Path

    @property
    def outcome(self) -> Path:
        return self.folder / "outcome.json"

    def failure(self, rank: int) -> Path:
        return self.folder / f"failure-{rank}.json"


def train_on_devices(
    experiment: Experiment,
    store: Store,
    out: Path,
    checkpoints: Path,
    devices: Sequence[torch.device],
    *,
    threads: int,
    checkpoint_seconds: float,
    timeout: timedelta = TIMEOUT,
) -> dict[str, Any]:
    """Train a learner as `fewshot.training.train.train` does, by one process a device.

    Args:
        experiment: what to train.
        store: the prepared data set.
        out: folder that gets the results.
        checkpoints: folder for the state of the run; what lies there is taken up.
        devices: where to compute; their number divides the meta-batch.
        threads: CPU threads of each process.
        checkpoint_seconds: time between checkpoints within an epoch.
        timeout: how long one process may keep the others waiting.

    Returns:
        Facts about the run for run.json.

    Raises:
        FewshotError: what `train` raises, from whichever rank; ResourceError if a rank was killed or does not answer.
        Interrupted: on SIGINT or SIGTERM, after the state was saved.
    """
    for stale in checkpoints.glob("ranks-*"):
        shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="ranks-", dir=checkpoints))
    task = _Task(
        experiment, store.directory, out, checkpoints, tuple(devices), threads, checkpoint_seconds, timeout, folder
    )
    try:
        with stop_signals() as stopped:
            return _supervise(task, stopped)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rank(rank: int, task: _Task) -> None:
    """Train as one of the ranks; rank 0 speaks for all."""
    if rank > 0:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for as long as the process lives)
    try:
        computing.limit_threads(task.threads)
        with joined(rank, len(task.devices), task.devices[rank], task.folder / "rendezvous", task.timeout) as group:
            outcome = _trained(task, group)
            if group.leads:
                write_json(task.outcome, outcome)
    except BaseException as error:  # the parent reports it, whatever it is
        record = {"kind": type(error).__name__, "text": str(error), "traceback": traceback.format_exc()}
        write_json(task.failure(rank), record)
        os._exit(1)  # without waiting for messages from ranks that may have ended


def _trained(task: _Task, group: ProcessGroup) -> dict[str, Any]:
    """Return the facts of the run, or why it stopped."""
    store, device = open_store(task.store), task.devices[group.rank]
    try:
        facts = train(task.experiment, store, task.out, task.checkpoints, device, task.checkpoint_seconds, group)
    except Interrupted as stop:
        return {"interrupted": str(stop)}
    return {"facts": facts}


def _supervise(task: _Task, stopped: Callable[[], str | None]) -> dict[str, Any]:
    """Start the ranks and return the facts of the run, or raise what ended it; no rank outlives this call."""
    context = start_processes(_rank, (task,), len(task.devices), join=False)
    processes: list[BaseProcess] = context.processes
    try:
        codes = _exit_codes(processes, stopped, task.outcome)
    finally:
        for process in processes:
            process.kill()
            process.join()
    if task.outcome.exists():
        outcome = read_json(task.outcome)
        if "interrupted" in outcome:
            raise Interrupted(outcome["interrupted"])
        facts: dict[str, Any] = outcome["facts"]
        return facts
    if (name := stopped()) is not None:
        raise Interrupted(f"{name}: stopped; the same command goes on from the last checkpoint")
    raise _failure(task, codes)


def _exit_codes(processes: Sequence[BaseProcess], stopped: Callable[[], str | None], outcome: Path) -> dict[int, int]:
    """Wait until all ranks have ended, or a moment longer than the first that failed; return their exit codes.

    A signal is passed on to rank 0, which tells the others: all stop after the same step. A rank that ends before there
    is an outcome has failed, whatever its exit code.
    """
    codes: dict[int, int] = {}
    passed_on, deadline = False, float("inf")
    while len(codes) < len(processes) and time.monotonic() < deadline:
        wait([process.sentinel for rank, process in enumerate(processes) if rank not in codes], POLL_S)
        if (name := stopped()) is not None and not passed_on and processes[0].pid is not None:
            passed_on = True
            os.kill(processes[0].pid, signal.Signals[name])
        codes = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode is not None}
        if any(codes.values()) or (codes and not outcome.exists()):
            deadline = min(deadline, time.monotonic() + LAST_WORDS_S)
    return codes


def _failure(task: _Task, codes: dict[int, int]) -> Exception:
    """Return the error that tells most: one meant for the user, then a rank that was killed, then a defect."""
    records = [json.loads(file.read_text()) for rank in codes if (file := task.failure(rank)).exists()]
    for record in records:
        kind = getattr(errors, record["kind"], None)
        if isinstance(kind, type) and issubclass(kind, FewshotError):
            return kind(record["text"])
    experiment = task.experiment
    for rank, code in codes.items():
        if code < 0:
            return ResourceError(
                f"{experiment.name}: the process of device {rank} of {len(task.devices)} was ended by "
                f"{signal.Signals(-code).name}; the same command goes on from the last checkpoint (if memory "
                f"was short, lower recipes.{experiment.recipe_name}.episodes_per_backward first)"
            )
    for record in records:
        if record["kind"] != LostContactError.__name__:
            return RuntimeError(record["traceback"])
    return ResourceError(f"{experiment.name}: {records[0]['text'] if records else 'the processes ended unfinished'}")
