"""What a run shows: one line per job at work, updated in place, and one line when a job ends.

Snakemake's messages come through its interface for logger plugins: `snakemake_logger_plugin_fewshot`, which
profiles/default selects, gives it `RunView`. How far a job is comes from the job itself (`progress`). Dry runs and runs
with `--verbose`, `--printshellcmds` or `--debug-dag` show Snakemake's own messages instead.
"""

import logging
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from fewshot import paths
from fewshot.progress import duration, read_progress
from fewshot.workflow.at_work import DONE, has_result, job_label, result_line, work_line
from fewshot.workflow.board import Board

REFRESH_S = 0.5
LOG_LINES = 15
RESTORE = "restore_"
OWN = "fewshot"  # attribute of the messages of this project, which are shown as they are
SNAKEMAKE = logging.getLogger("snakemake.logging")

# What Snakemake says about itself, or a second time.
UNSHOWN_EVENTS = (
    LogEvent.WORKFLOW_STARTED,
    LogEvent.RESOURCES_INFO,
    LogEvent.SHELLCMD,
    LogEvent.JOB_STARTED,
    LogEvent.PROGRESS,
)
UNSHOWN = (
    "Assuming unrestricted shared filesystem",
    "Building DAG of jobs",
    "Using shell",
    "Select jobs to execute",
    "Execute ",
    "Shutting down, this might take",
    "Will exit after finishing",
    "Removing output files of failed job",
    "Exiting because a job execution failed",
    "WorkflowError:\nAt least one job did not complete",
    "Complete log(s)",
    "Elapsed time",
)
FAILED_COMMAND = "returned non-zero exit status"  # the job's own message names its log


@dataclass
class ShownJob:
    """A job that Snakemake has started.

    Attributes:
        stage: download, prepare, train, evaluate or report.
        label: its name.
        progress_file: where it says how far it is.
        outputs: its results.
        restores: whether it only restores a result that was finished before.
        began: when it was started, by the clock of `time.monotonic`.
        seen: whether it has said how far it is.
    """

    stage: str
    label: str
    progress_file: Path
    outputs: tuple[Path, ...]
    restores: bool
    began: float = field(default_factory=time.monotonic)
    seen: bool = False

    def work_line(self) -> str:
        """Return the line of the job while it is at work."""
        progress = read_progress(self.progress_file)
        self.seen |= progress is not None
        waiting = "ending" if self.seen else f"started {duration(time.monotonic() - self.began)} ago"
        return work_line(self.stage, self.label, progress, waiting)


class RunView(LogHandlerBase):  # type: ignore[misc, unused-ignore]
    """Shows a run of Snakemake on standard error."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        settings = self.common_settings
        self.board = Board(sys.stdout if settings.stdout else sys.stderr)
        self.detailed = settings.dryrun or settings.verbose or settings.printshellcmds or settings.debug_dag
        self.began = time.monotonic()
        self.total = self.done = 0
        self.jobs: dict[int, ShownJob] = {}
        self._closed = threading.Event()
        self._refreshing: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message."""
        try:
            text = self.format(record) if self.detailed else self._text_of(record)
            if text and text != "None":
                self.board.print(text)
            self._refresh()
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Remove the lines of jobs at work."""
        self._closed.set()
        if self._refreshing:
            self._refreshing.join()
        self.board.update([])
        super().close()

    def _text_of(self, record: logging.LogRecord) -> str:
        """Return what to print about a message; "" for nothing."""
        event, facts = getattr(record, "event", None), vars(record)
        if event == LogEvent.RUN_INFO:
            return self._plan_line(facts["stats"])
        if event == LogEvent.JOB_INFO:
            self._start(facts)
            return ""
        if event == LogEvent.JOB_FINISHED:
            return self._result_line(self.jobs.pop(facts["job_id"], None))
        if event == LogEvent.JOB_ERROR:
            return _failure_text(self.jobs.pop(facts["jobid"], None), facts)
        if "stopped_job" in facts:
            self.jobs.pop(facts["stopped_job"], None)
        text = self.format(record)
        hidden = event in UNSHOWN_EVENTS or text.startswith(UNSHOWN) or FAILED_COMMAND in text
        return "" if hidden and not hasattr(record, OWN) else text

    def _plan_line(self, stats: dict[str, int]) -> str:
        counts = {stage: stats.get(stage, 0) + stats.get(f"{RESTORE}{stage}", 0) for stage in DONE}
        self.total = sum(counts.values())
        restored = sum(count for name, count in stats.items() if name.startswith(RESTORE))
        known = f", {restored} of them only to restore" if restored else ""
        listed = ", ".join(f"{count} {stage}" for stage, count in counts.items() if count)
        return f"{self.total} {'job' if self.total == 1 else 'jobs'}: {listed}{known}"

    def _start(self, facts: dict[str, Any]) -> None:
        """Note a job that has started, unless it only names a target."""
        rule, wildcards = facts["rule_name"], facts["wildcards"] or {}
        stage = rule.removeprefix(RESTORE)
        if stage not in DONE:
            return
        named = [wildcards[kind] for kind in ("training", "experiment", "dataset") if kind in wildcards]
        name = named[0] if named else str(facts["rule_msg"]).removeprefix(f"{stage} ")
        self.jobs[facts["jobid"]] = ShownJob(
            stage,
            job_label(name, wildcards.get("target")),
            paths.CACHE / stage / wildcards.get("key", "") / paths.PROGRESS,
            tuple(map(Path, facts["output"])),
            rule.startswith(RESTORE),
        )

    def _result_line(self, job: ShownJob | None) -> str:
        if job is None:
            return ""
        self.done += 1
        if not has_result(job.stage, job.outputs):
            return ""
        words = f"{duration(time.monotonic() - self.began)} in all" if job.stage == "report" else ""
        line = result_line(job.stage, job.label, job.outputs, restores=job.restores, words=words)
        return f"[{self.done:>{len(str(self.total))}}/{self.total}] {line}"

    def _refresh(self) -> None:
        """Show the jobs at work, from now on by the clock."""
        if not self.board.in_place or self.detailed:
            return
        self._show_jobs()
        if self.jobs and self._refreshing is None:
            self._refreshing = threading.Thread(target=self._refresh_until_closed, daemon=True)
            self._refreshing.start()

    def _refresh_until_closed(self) -> None:
        while not self._closed.wait(REFRESH_S):
            self._show_jobs()

    def _show_jobs(self) -> None:
        self.board.update([job.work_line() for job in list(self.jobs.values())])


def tell(text: str, stopped_job: int | None = None) -> None:
    """Print a message of this project among Snakemake's, after all that came before it.

    Args:
        text: the message.
        stopped_job: number of a job of which it says that it was stopped.
    """
    SNAKEMAKE.info(text, extra={OWN: True, **({} if stopped_job is None else {"stopped_job": stopped_job})})


def _failure_text(job: ShownJob | None, facts: dict[str, Any]) -> str:
    """Return which job failed, with the last lines of its log and where to read the rest."""
    lines = [f"FAILED: {f'{job.stage} {job.label}' if job else facts['rule_name']}"]
    lines += [f"    {name}: {value}" for name, value in (facts.get("aux") or {}).items()]
    for log in map(Path, facts["log"]):
        text = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        lines += [f"    {line}" for line in text[-LOG_LINES:]]
        lines.append(f"    log: {log}" if text else f"    log: {log} (empty or missing)")
    return "\n".join(lines)
