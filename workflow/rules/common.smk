# Takes the jobs from the plan. A mistake in params.yaml is reported here, before any job starts.
import shlex
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from fewshot.doctor import system_problem

if problem := system_problem():  # the modules below need Linux or macOS
    raise WorkflowError(problem)

from fewshot.errors import FewshotError
from fewshot.experiments.reader import read_files
from fewshot.paths import JOB_STAGES
from fewshot.progress import accept_any_encoding
from fewshot.training.tensorboard import check_installed
from fewshot.warm.start import warm_this_run
from fewshot.workflow.ending import TableIfNothingToDo, table_text
from fewshot.workflow.frozen_params import freeze_params
from fewshot.workflow.listing import check_experiment_names, jobs_to_restore
from fewshot.workflow.notes import suite_notes
from fewshot.workflow.old_layout import move_old_entries
from fewshot.workflow.plan import load_plan
from fewshot.workflow.run_view import tell
from fewshot.workflow.running import register
from fewshot.workflow.stopping import Stop, stop_summary
from fewshot.workflow.tables_state import remove_stale_stamps


report: "../report/workflow.rst"


def planned():
    """Read params.yaml with the overrides of `--config` and plan it; any mistake gives one clear error."""
    try:
        plan = load_plan(overrides=config)
        if workflow.is_main_process:
            check_experiment_names(plan, sys.argv[1:])
            if plan.params.train.tensorboard:
                check_installed()
        return plan
    except FewshotError as error:
        raise WorkflowError(str(error)) from None


STOP = Stop()
if workflow.is_main_process:
    accept_any_encoding()
    STOP.listen()
    STOP.watch(logger)

PLAN = planned()
FILES = read_files(overrides=config)
if workflow.is_main_process:
    for line in suite_notes(PLAN, FILES):
        logger.warning(f"Note: {line}")
config.update(FILES.values)
validate(config, "../schemas/params.schema.json")
if workflow.is_main_process:
    move_old_entries()
    remove_stale_stamps(PLAN)
    RUNNING, removed = register()  # as long as this file is open
    if removed:
        logger.info("Removed a stale lock left by a killed snakemake.")

FEWSHOT = f"{shlex.quote(sys.executable)} -m fewshot"
SUITE = PLAN.suite
GPUS = 0 if PLAN.params.train.device == "cpu" else 1  # requested per job on a cluster

# Executors without a shared folder move results through remote storage (profiles/kubernetes). Jobs then work in
# Snakemake's copy of it, and everything runs remotely, including the download, as part of the prepare job.
STORAGE = workflow.storage_settings.default_storage_prefix  # empty: none


def frozen_params():
    """Write what jobs read instead of params.yaml, so that an edit during a run concerns only the next one."""
    try:
        return freeze_params(FILES)
    except FewshotError as error:
        raise WorkflowError(str(error)) from None


SETTINGS = f"--suite {SUITE}" + ("" if STORAGE else f" --params {frozen_params()}")


KEY = r"[0-9a-f]{12}"
NO_KEY = r"(?!)"


wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    target=r"[a-z0-9_]+",
    training=r"[A-Za-z0-9._-]+",
    experiment=r"[A-Za-z0-9._-]+",
    key=KEY,


def ending():
    """What a run of the whole suite ends with."""
    whole = set(workflow.dag_settings.targets) <= {"all", "report"}
    return table_text(PLAN) if whole and not workflow.dryrun else ""


if workflow.is_main_process:
    logger.addFilter(TableIfNothingToDo(ending))


def all_outputs(stage):
    """Paths of all outputs of a stage."""
    return [str(path) for job in PLAN.jobs(stage) for path in job.outputs.values()]


def keys_to_restore(stage):
    """Pattern of the keys whose results were finished before: their jobs, restore_<stage>, compute nothing.

    Only the process that plans the jobs decides this; one that runs a single job is told its rule.
    """
    if not workflow.is_main_process:
        return KEY
    found = [] if STORAGE else [job.key for job in jobs_to_restore(PLAN, stage)]
    return "|".join(found) or NO_KEY


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


def training_inputs(wildcards):
    job = PLAN.find("train", wildcards.training, wildcards.key)
    return [path for read in job.inputs for path in outputs_of(read)]


def evaluation_inputs(wildcards):
    job = PLAN.find("evaluate", wildcards.experiment, wildcards.key, wildcards.target)
    return [*outputs_of(job.train), *outputs_of(job.prepare)]


def devices_of(wildcards):
    """Number of processes that share a training run, each with its own threads and GPU."""
    return PLAN.find("train", wildcards.training, wildcards.key).devices


def jobs_that_compute():
    """Number of jobs of this run that import numerical libraries."""
    stages = [
        job.rule.name.removeprefix("restore_") for job in workflow.dag.needrun_jobs()
    ]
    return sum(stage in JOB_STAGES for stage in stages)


onstart:
    STOP.listen()  # again: Snakemake has set its own handler of SIGTERM
    if workflow.local_exec and not workflow.touch and jobs_that_compute() > 1:
        if problem := warm_this_run(PLAN.params.train.threads):
            tell(f"Note: {problem}")
    tell(
        f"suite {SUITE}: in another terminal, `fewshot watch` shows the jobs at work; their logs: logs/*/*.log"
    )
