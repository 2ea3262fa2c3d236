"""Stage report: plan of a suite -> entries of the report -> tables. Does not import torch."""

from collections.abc import Mapping
from pathlib import Path

from fewshot.paths import FIGURES, log_file
from fewshot.progress import say
from fewshot.report import Summary, write_report
from fewshot.report.inputs import ReportEntry, SuiteReport
from fewshot.workflow.plan import Plan
from fewshot.workflow.planned_jobs import EvaluateJob, Job
from fewshot.workflow.results import HASHES, describe_damage, remake_command, restore_result
from fewshot.workflow.tables_state import stamp_file

# Files of each stage that a report reads, by name or ending.
READ = {"prepare": (), "train": (HASHES, "run.json", "history.csv"), "evaluate": (HASHES, ".json", ".npz")}


def report_suite(plan: Plan, out: Path, *, allow_missing: bool = False) -> Summary:
    """Write the tables, figures and report of a suite; a complete one in its default folder is stamped."""
    summary = write_report(suite_report(plan), out, allow_missing=allow_missing, cache=FIGURES)
    if out == plan.tables_dir and not summary.partial:
        stamp_file(plan).touch()
    return summary


def suite_report(plan: Plan) -> SuiteReport:
    """Return the inputs of the report."""
    damage = {job.dir: _damage(job) for stage in READ for job in plan.jobs(stage)}
    entries = tuple(report_entry(plan, job, damage) for job in plan.evaluate)
    return SuiteReport(plan.suite, plan.report_key, entries, plan.params.report)


def _damage(job: Job) -> str:
    """Restore what is missing or damaged of a result; return what the report reads that cannot be restored."""
    reads, lost = READ[job.stage], restore_result(job)
    if not lost or not (job.dir / HASHES).exists():
        return ""
    read = [name for name in lost if name in reads or Path(name).suffix in reads]
    if not read:
        say(f"{describe_damage(job, lost)}; the report does not need it")
    return describe_damage(job, read) if read else ""


def report_entry(plan: Plan, job: EvaluateJob, damage: Mapping[Path, str]) -> ReportEntry:
    """Return the entry of one evaluation.

    Args:
        plan: the suite.
        job: one of its evaluations.
        damage: what is wrong with the result of a job, by its folder, if anything is.
    """
    experiment = job.experiment
    broken = next((read for read in (job.train, job) if damage.get(read.dir)), None)
    run = f"snakemake --cores 1 {experiment.name} --config suite={plan.suite}"
    return ReportEntry.of(
        experiment,
        job.prepare.dataset,
        evaluation=job.outputs["json"],
        train_dir=job.train.dir,
        prepare_dir=job.prepare.dir,
        store_dir=job.prepare.store_dir,
        log=_log_of_missing_stage(job),
        command=remake_command(broken, plan.suite) if broken else run,
        damage=damage[broken.dir] if broken else "",
    )


def _log_of_missing_stage(job: EvaluateJob) -> Path:
    """Return the log of the first stage of an evaluation whose result is missing."""
    for data in (job.train.prepare, job.prepare):
        if not data.outputs["manifest"].exists():
            prepared = log_file("prepare", data.name, data.key)
            return prepared if prepared.exists() else log_file("download", data.name, data.data_key)
    for training in reversed(job.train.chain):
        if not training.outputs["weights"].exists():
            return log_file("train", training.name, training.key)
    return log_file("evaluate", f"{job.name}-{job.target}", job.key)
