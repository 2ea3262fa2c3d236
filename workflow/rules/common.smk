# Takes the jobs from the plan. A mistake in params.yaml is reported here, before any job starts.
import re
import shlex
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from fewshot.errors import FewshotError
from fewshot.experiments.reader import read_yaml
from fewshot.workflow.listing import check_experiment_names
from fewshot.workflow.plan import load_plan
from fewshot.workflow.running import clear_stale_locks
from fewshot.workflow.tables_state import remove_stale_stamps


report: "../report/workflow.rst"


def planned():
    """Read params.yaml with the overrides of `--config` and plan it; any mistake gives one clear error."""
    try:
        plan = load_plan(overrides=config)
        if workflow.is_main_process:
            check_experiment_names(plan, sys.argv[1:])
        return plan
    except FewshotError as error:
        raise WorkflowError(str(error)) from None


PLAN = planned()
config.update(read_yaml(Path("params.yaml")) | config)
validate(config, "../schemas/params.schema.json")
if workflow.is_main_process:
    remove_stale_stamps(PLAN)
    ALIVE_LOCK, removed = clear_stale_locks()
    if removed:
        logger.info("Removed a stale lock left by a killed snakemake.")

FEWSHOT = f"{shlex.quote(sys.executable)} -m fewshot"
SUITE = PLAN.suite
GPUS = 0 if PLAN.params.train.device == "cpu" else 1  # requested per job on a cluster

# Executors without a shared folder move results through remote storage (profiles/kubernetes). Jobs then work in
# Snakemake's copy of it, and everything runs remotely, including the download, as part of the prepare job.
STORAGE = workflow.storage_settings.default_storage_prefix  # empty: none


wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    target=r"[a-z0-9_]+",
    experiment=r"[A-Za-z0-9._-]+",
    key=r"[0-9a-f]{12}",


def all_outputs(stage):
    """Paths of all outputs of a stage."""
    return [str(path) for job in PLAN.jobs(stage) for path in job.outputs.values()]


def was_stopped(log):
    """Whether Snakemake, or every job that failed, was asked to stop (exit status 130), according to its log."""
    failed = re.findall(r"non-zero exit status (\d+)", log)
    return "on user request" in log or set(failed) == {"130"}


def outputs_of(job):
    return ancient([str(path) for path in job.outputs.values()])


def results_of(stage):
    """The root of the results that a job of a stage reads and writes."""

    def folder(wildcards, output):
        return f"{output[0].rpartition(f'results/{stage}/')[0]}results"

    return folder


def raw_files(wildcards):
    job = PLAN.find("prepare", wildcards.dataset, wildcards.key)
    downloaded = job.downloads and not STORAGE
    return ancient([str(job.download_record)]) if downloaded else []


def evaluation_inputs(wildcards):
    job = PLAN.find("evaluate", wildcards.experiment, wildcards.key, wildcards.target)
    return [*outputs_of(job.train), *outputs_of(job.prepare)]


def devices_of(wildcards):
    """Number of processes that share a training run, each with its own threads and GPU."""
    return PLAN.find("train", wildcards.experiment).devices


onstart:
    print(
        f"suite {SUITE}: progress and estimated time and memory of each job: tail -f logs/*/*.log"
    )
