"""The jobs at work in this folder, as a run shows them: `fewshot watch`, in a second terminal or on another machine."""

import time
from collections.abc import Iterator
from typing import TextIO

from fewshot import paths
from fewshot.progress import read_progress
from fewshot.training.stop_signals import Interrupted
from fewshot.workflow.at_work import job_label, result_line, work_line
from fewshot.workflow.board import Board
from fewshot.workflow.ending import table_text
from fewshot.workflow.plan import Plan
from fewshot.workflow.planned_jobs import Job
from fewshot.workflow.running import is_running
from fewshot.workflow.stopping import finished_counts

POLL_S = 1.0


def watch(plan: Plan, stream: TextIO) -> None:
    """Show the jobs of a suite at work, and each result when it is finished, until no job and no Snakemake runs.

    Everything is read from the project folder, so it may be shared with the machines that compute.

    Args:
        plan: the suite.
        stream: where to print.

    Raises:
        Interrupted: on a signal, such as Ctrl-C; the jobs go on.
    """
    board = Board(stream)
    unfinished = [job for job in _jobs(plan) if not _is_finished(job)]
    board.print(f"suite {plan.suite}: {finished_counts(plan)}")
    try:
        while True:
            runs = is_running()  # before the results are looked at, so that those of a run that ends now are shown
            for job in [job for job in unfinished if _is_finished(job)]:
                unfinished.remove(job)
                board.print(result_line(job.stage, _label(job), job.outputs.values()))
            at_work = list(_work_lines(unfinished))
            board.update(at_work)
            if not runs and not at_work:
                break
            time.sleep(POLL_S)
    except Interrupted:
        raise Interrupted("stopped watching; jobs at work go on") from None
    finally:
        board.update([])
    board.print(table_text(plan) or f"No job is at work: {finished_counts(plan)}.")


def _jobs(plan: Plan) -> Iterator[Job]:
    return (job for stage in paths.JOB_STAGES for job in plan.jobs(stage))


def _is_finished(job: Job) -> bool:
    return all(file.exists() for file in job.outputs.values())


def _work_lines(jobs: list[Job]) -> Iterator[str]:
    for job in jobs:
        progress = read_progress(job.progress_file)
        if progress is not None:
            yield work_line(job.stage, _label(job), progress)


def _label(job: Job) -> str:
    return job_label(job.name, getattr(job, "target", None))
