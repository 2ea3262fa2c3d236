"""How Snakemake stops: a signal reaches its jobs, which save their state, and a stop is not reported as a failure.

Without this, Snakemake waits hours for its jobs if it alone gets SIGTERM, and prints the settings and the log of each
stopped job as an error. Its log file in `.snakemake/log` still has everything.
"""

import errno
import logging
import re
import signal
import threading
import time
from contextlib import suppress
from logging.handlers import QueueHandler
from pathlib import Path
from types import FrameType

import psutil

from fewshot.errors import ResourceError
from fewshot.files import WRITE_REFUSED, cannot_write
from fewshot.training.stop_signals import SIGNALS
from fewshot.workflow.plan import Plan
from fewshot.workflow.run_view import OWN, tell
from fewshot.workflow.running import SNAKEMAKE_DIR, describe_conflict, this_command

REPEAT_S = 1.0
ANNOUNCE_S = 1.0
# How Snakemake words the end of a job that a signal stopped (129, 130, 143: with a shell in between).
STOPPED_JOB = re.compile(r"non-zero exit status (129|130|143)\b|died with <Signals\.SIG(HUP|INT|TERM)\b")

OS_ERROR = re.compile(r"^\w*Error: \[Errno (?P<number>\d+)\] (?P<reason>[^:\n]+)(?:: '(?P<path>[^'\n]+)')?\s*\Z", re.M)
KEY = re.compile(r"-[0-9a-f]{12}$")  # at the end of the name of a log


class Stop(logging.Filter):
    """Whether this Snakemake was asked to stop, or its jobs were; as a filter of its messages, hides what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.signal: str | None = None
        self.failed = False
        self._some_stopped = False
        self._stopping_threads: set[int | None] = set()

    def listen(self) -> None:
        """Stop on the first SIGINT, SIGTERM or SIGHUP that the process does not ignore."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._stop)

    def watch(self, logger: logging.Logger) -> None:
        """Filter what Snakemake prints, but not what it writes to its log file."""
        logging.raiseExceptions = False  # a log file on a full disk is not worth a traceback per message
        for handler in logger.handlers:
            if isinstance(handler, QueueHandler) or handler.name == "DefaultStreamHandler":
                handler.addFilter(self)

    @property
    def happened(self) -> bool:
        """Whether the run ended because it, or every job that did not finish, was stopped."""
        return self.signal is not None or not self.failed

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            return
        self.signal = signal.Signals(number).name
        said = f"{self.signal}: stopping; running jobs save their state first."
        announcing = threading.Thread(target=tell, args=(said,), daemon=True)
        announcing.start()
        announcing.join(ANNOUNCE_S)  # no longer: this signal may have interrupted a message, which holds a lock
        threading.Thread(target=_signal_jobs, args=(number,), daemon=True).start()
        raise SystemExit(130)  # Snakemake waits for its jobs and then calls onerror

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show a message."""
        event, text = getattr(record, "event", None), record.getMessage()
        if hasattr(record, OWN):
            return True
        if getattr(record, "exception", None) == "LockException":
            record.msg, record.args = describe_conflict(), ()
        elif refused := _refused_write(text):
            record.msg, record.args, self.failed = str(refused), (), True
        elif STOPPED_JOB.search(text):
            self._stopping_threads.add(record.thread)  # which then reports the job
            self._some_stopped = True
            return False
        elif event is not None and str(event.value) == "job_error" and record.thread in self._stopping_threads:
            self._stopping_threads.discard(record.thread)
            tell(_describe_stopped_job(record), stopped_job=getattr(record, "jobid", None))
            return False
        elif record.levelno >= logging.ERROR and event is not None:
            self.failed = True
        elif self.signal is not None:
            return event is not None and str(event.value) == "job_finished"
        elif self._some_stopped and not self.failed:  # what follows only repeats that jobs did not finish
            return record.levelno < logging.ERROR
        return True


def _refused_write(text: str) -> ResourceError | None:
    """Return the error to show instead of the traceback that Snakemake prints if it cannot write its own files."""
    found = OS_ERROR.search(text)
    if found is None or int(found["number"]) not in (*WRITE_REFUSED, errno.ENOTDIR):
        return None
    return cannot_write(found["path"] or SNAKEMAKE_DIR, OSError(int(found["number"]), found["reason"]))


def _signal_jobs(number: int) -> None:
    """Send a signal to the jobs of this Snakemake until it ends, since jobs may be about to start."""
    while True:
        with suppress(psutil.Error):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if child.cmdline()[1:3] == ["-m", "fewshot"]:
                        child.send_signal(number)
        time.sleep(REPEAT_S)


def _describe_stopped_job(record: logging.LogRecord) -> str:
    """Return "<stage> <experiment or data set>: <last line of its log>" from Snakemake's message about a job."""
    logs = [Path(log) for log in getattr(record, "log", ())]
    names = [KEY.sub("", log.stem) for log in logs]
    lines = [line.strip() for log in logs for line in _lines(log) if line.strip()]
    return f"{' '.join([getattr(record, 'rule_name', 'job'), *names])}: {lines[-1] if lines else 'stopped'}"


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []


def stop_summary(plan: Plan, stop: Stop, *, results_are_here: bool = True) -> str:
    """Return what is finished of a suite whose run was stopped, and the command that continues.

    Args:
        plan: of the suite.
        stop: how it was stopped.
        results_are_here: whether the results are in this folder and can be counted, not in remote storage.
    """
    by = f" by {stop.signal}" if stop.signal else ""
    counts = f": {finished_counts(plan)}" if results_are_here else ""
    failed = " Some jobs failed; their errors are above." if stop.failed else ""
    return (
        f"Stopped{by}. Finished work is kept{counts}.{failed}\n"
        f"Rerun the same command to resume from the last checkpoints: {this_command()}"
    )


def finished_counts(plan: Plan) -> str:
    """Return how much of a suite is finished: "1 of 1 data sets prepared, 2 of 3 models trained, ..."."""
    words = {"prepare": "data sets prepared", "train": "models trained", "evaluate": "evaluations made"}
    jobs = {stage: plan.jobs(stage) for stage in words}
    done = {stage: sum(all(file.exists() for file in job.outputs.values()) for job in jobs[stage]) for stage in words}
    return ", ".join(f"{done[stage]} of {len(jobs[stage])} {what}" for stage, what in words.items())
