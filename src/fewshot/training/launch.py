"""Starts the processes (ranks) of a training run on several devices, supervises them and reports how they ended.

The processes find each other through a file in the job's checkpoint folder, so no port or host name is needed and any
number of such runs can coexist. The parent computes nothing: it forwards signals and ends all ranks if one fails.
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
from fewshot.experiments.experiment import Experiment
from fewshot.files import read_json, write_json
from fewshot.progress import report_file_lent, reported_in
from fewshot.training.devices import limit_threads
from fewshot.training.parallel import TIMEOUT, LostContactError, ProcessGroup, joined
from fewshot.training.state import Checkpoints
from fewshot.training.stop_signals import Interrupted, stop_signals
from fewshot.training.train import train

POLL_S = 0.2
GRACE_S = 5.0  # after the first failure, for the other ranks to report theirs


@dataclass(frozen=True)
class _SharedTraining:
    """What every rank must know.

    Attributes:
        experiment: what to train.
        store: folder of the prepared data set.
        out: folder that gets the results.
        checkpoints: where and how often to save.
        devices: one per rank.
        threads: CPU threads of each rank.
        timeout: how long one rank may keep the others waiting.
        start: weights of the training whose backbone this one starts from, or None.
        curves: folder for TensorBoard's event files, or None.
        folder: for the rendezvous file and the reports of the ranks.
        progress: file in which the first rank says how far the training is, or None.
    """

    experiment: Experiment
    store: Path
    out: Path
    checkpoints: Checkpoints
    devices: tuple[torch.device, ...]
    threads: int
    timeout: timedelta
    start: Path | None
    curves: Path | None
    folder: Path
    progress: Path | None

    @property
    def outcome(self) -> Path:
        return self.folder / "outcome.json"

    def failure(self, rank: int) -> Path:
        return self.folder / f"failure-{rank}.json"


def train_on_devices(
    experiment: Experiment,
    store: Store,
    out: Path,
    checkpoints: Checkpoints,
    devices: Sequence[torch.device],
    *,
    threads: int,
    timeout: timedelta = TIMEOUT,
    start: Path | None = None,
    curves: Path | None = None,
) -> dict[str, Any]:
    """Train a learner as `fewshot.training.train.train` does, with one process per device.

    Args:
        experiment: what to train.
        store: the prepared data set.
        out: folder that gets the results.
        checkpoints: where and how often to save the state of the run.
        devices: where to compute; their number divides the meta-batch.
        threads: CPU threads of each process.
        timeout: how long one process may keep the others waiting.
        start: weights of the training whose backbone this one starts from; None starts from random weights.
        curves: folder for TensorBoard's event files; None writes none.

    Returns:
        Facts about the run for run.json.

    Raises:
        FewshotError: what `train` raises, from whichever rank; ResourceError if a rank was killed or does not answer.
        Interrupted: on SIGINT or SIGTERM, after the state was saved.
    """
    for stale in checkpoints.folder.glob("ranks-*"):
        shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="ranks-", dir=checkpoints.folder))
    try:
        with stop_signals() as stopped, report_file_lent() as progress:
            training = _SharedTraining(
                experiment=experiment,
                store=store.directory,
                out=out,
                checkpoints=checkpoints,
                devices=tuple(devices),
                threads=threads,
                timeout=timeout,
                start=start,
                curves=curves,
                folder=folder,
                progress=progress,
            )
            return _supervise(training, stopped)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_rank(rank: int, training: _SharedTraining) -> None:
    """Train as one of the ranks; rank 0 also reports the outcome."""
    if rank > 0:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)
    devices, rendezvous = training.devices, training.folder / "rendezvous"
    try:
        limit_threads(training.threads)
        with (
            joined(rank, len(devices), devices[rank], rendezvous, training.timeout) as processes,
            reported_in(training.progress if processes.leads else None),
        ):
            outcome = _outcome(training, processes)
            if processes.leads:
                training.folder.mkdir(parents=True, exist_ok=True)  # in case `cache/` was deleted
                write_json(training.outcome, outcome)
    except BaseException as error:  # the parent reports it, whatever it is
        record = {"kind": type(error).__name__, "text": str(error), "traceback": traceback.format_exc()}
        training.folder.mkdir(parents=True, exist_ok=True)
        write_json(training.failure(rank), record)
        os._exit(1)  # without waiting for messages from ranks that may have ended


def _outcome(training: _SharedTraining, processes: ProcessGroup) -> dict[str, Any]:
    """Return the facts about the run, or why it stopped."""
    store = open_store(training.store)
    try:
        facts = train(
            training.experiment, store, training.out, training.checkpoints, processes, training.start, training.curves
        )
        return {"facts": facts}
    except Interrupted as stop:
        return {"interrupted": str(stop)}


def _supervise(training: _SharedTraining, stopped: Callable[[], str | None]) -> dict[str, Any]:
    """Start the ranks and return the facts about the run, or raise what ended it; no rank outlives this call."""
    context = start_processes(_run_rank, (training,), len(training.devices), join=False)
    processes: list[BaseProcess] = context.processes
    try:
        codes = _exit_codes(processes, stopped, training.outcome)
    finally:
        for process in processes:
            process.kill()
            process.join()
    if training.outcome.exists():
        outcome = read_json(training.outcome)
        if "interrupted" in outcome:
            raise Interrupted(outcome["interrupted"])
        facts: dict[str, Any] = outcome["facts"]
        return facts
    if (name := stopped()) is not None:
        raise Interrupted(f"{name}: stopped; the same command resumes from the last checkpoint")
    raise _failure(training, codes)


def _exit_codes(processes: Sequence[BaseProcess], stopped: Callable[[], str | None], outcome: Path) -> dict[int, int]:
    """Wait until all ranks have ended, or until `GRACE_S` after the first failure; return their exit codes.

    A signal is forwarded to rank 0, and through it to the others: all stop after the same step. A rank that ends before
    there is an outcome has failed, whatever its exit code.
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
            deadline = min(deadline, time.monotonic() + GRACE_S)
    return codes


def _failure(training: _SharedTraining, codes: dict[int, int]) -> Exception:
    """Return the most informative error: one meant for the user, else a killed rank, else an unexpected error."""
    records = [json.loads(file.read_text()) for rank in codes if (file := training.failure(rank)).exists()]
    for record in records:
        kind = getattr(errors, record["kind"], None)
        if isinstance(kind, type) and issubclass(kind, FewshotError):
            return kind(record["text"])
    experiment = training.experiment
    for rank, code in codes.items():
        if code < 0:
            size = "batch_size" if experiment.recipe.batch_size else "episodes_per_backward"
            return ResourceError(
                f"{experiment.name}: the process of device {rank} of {len(training.devices)} was killed by "
                f"{signal.Signals(-code).name}; the same command resumes from the last checkpoint (if memory "
                f"ran out, lower recipes.{experiment.recipe_name}.{size} first)"
            )
    for record in records:
        if record["kind"] != LostContactError.__name__:
            return RuntimeError(record["traceback"])
    return ResourceError(f"{experiment.name}: {records[0]['text'] if records else 'the processes ended unfinished'}")
