# Asks the plan what is to be made. A mistake in params.yaml stops here, before any job starts.
import re
import shlex
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from fewshot.errors import FewshotError
from fewshot.experiments.reader import read_yaml
from fewshot.workflow.plan import load_plan
from fewshot.workflow.running import clear_stale_locks
from fewshot.workflow.tables_state import forget_foreign_tables


report: "../report/workflow.rst"


def planned():
    """Type and plan params.yaml with what `--config` replaces; one clear error for whatever is wrong."""
    try:
        return load_plan(overrides=config)
    except FewshotError as error:
        raise WorkflowError(str(error)) from None


PLAN = planned()
config.update(read_yaml(Path("params.yaml")) | config)
validate(config, "../schemas/params.schema.json")
if workflow.is_main_process:
    forget_foreign_tables(PLAN)
    ALIVE, removed = clear_stale_locks()
    if removed:
        logger.info(
            "A snakemake that was killed had left its lock here; it is removed."
        )

FEWSHOT = f"{shlex.quote(sys.executable)} -m fewshot"
SUITE = PLAN.suite
GPUS = 0 if PLAN.params.train.device == "cpu" else 1  # asked of a cluster for each job

# An executor whose machines share no folder moves results through a storage (profiles/kubernetes). Jobs then work in
# Snakemake's copy of it, and everything runs there: the download too, by the job that prepares.
STORAGE = workflow.storage_settings.default_storage_prefix  # empty: none


wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    target=r"[a-z0-9_]+",
    experiment=r"[A-Za-z0-9._-]+",
    key=r"[0-9a-f]{12}",


def made(stage):
    """All outputs of a stage, as text."""
    return [str(path) for job in PLAN.jobs(stage) for path in job.outputs.values()]


def was_stopped(log):
    """Whether Snakemake or its jobs were asked to end, by what Snakemake's own log says."""
    failed = re.findall(r"non-zero exit status (\d+)", log)
    return "on user request" in log or (failed and set(failed) == {"130"})


def outputs_of(job):
    return ancient([str(path) for path in job.outputs.values()])


def results_of(stage):
    """The folder of results in which a job of a stage reads and writes."""

    def folder(wildcards, output):
        return f"{output[0].rpartition(f'results/{stage}/')[0]}results"

    return folder


def raw_files(wildcards):
    job = PLAN.find("prepare", wildcards.dataset, wildcards.key)
    fetched = job.downloads and not STORAGE
    return ancient([str(job.download_record)]) if fetched else []


def evaluation_inputs(wildcards):
    job = PLAN.find("evaluate", wildcards.experiment, wildcards.key, wildcards.target)
    return [*outputs_of(job.train), *outputs_of(job.prepare)]


def devices_of(wildcards):
    """Processes that share a training, each with threads and a GPU of its own."""
    return PLAN.find("train", wildcards.experiment).devices


onstart:
    print(
        f"suite {SUITE}: progress, time and memory estimates of each job: tail -f logs/*/*.log"
    )
