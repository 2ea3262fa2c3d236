"""The command `fewshot`: one subcommand per stage, and others to inspect results and clean up.

Starts without importing torch; subcommands that compute import it after setting the number of threads.
"""

import argparse
import os
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TextIO

from fewshot import __version__, paths
from fewshot.digests import ALWAYS_READ, save_digests
from fewshot.errors import FewshotError, ParamsError, printable, quoted, quoted_key
from fewshot.experiments.matrix import check_suite_name
from fewshot.experiments.params import Params, schema_text
from fewshot.experiments.reader import PARAMS_FILE, read_files, read_params
from fewshot.files import WRITE_REFUSED, cannot_write
from fewshot.progress import accept_any_encoding
from fewshot.sharing.bundle_script import positive
from fewshot.training.stop_signals import EXIT_STOPPED, exit_on_signals
from fewshot.workflow.old_layout import move_old_entries
from fewshot.workflow.plan import Plan, load_plan
from fewshot.workflow.planned_jobs import Job

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
warm_threads: int | None = None  # set by the process that jobs are forked from (warm.server): threads per job
SCHEMA_FILE = Path("workflow/schemas/params.schema.json")

Command = Callable[[argparse.Namespace], None]

EXIT_USER_ERROR = 2
PROJECT_VARIABLE = "FEWSHOT_PROJECT"
PROJECT_HELP = f"project to work in (default: this folder, or ${PROJECT_VARIABLE} if it has no {PARAMS_FILE})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand.

    The exit status is 0 if it succeeded, 2 after an error that the user can fix, which is printed without a traceback,
    and 130 if a signal or the end of the reading program stopped it.
    """
    accept_any_encoding()
    try:
        options = _parser().parse_args(arguments)
        _enter_project(options)
        if getattr(options, "verify", False):
            os.environ[ALWAYS_READ] = "1"
        options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except FewshotError as error:
        _exit(f"error: {error}", EXIT_USER_ERROR)
    except KeyboardInterrupt as stop:
        _exit(str(stop) or "interrupted; rerun the same command to continue", EXIT_STOPPED)
    except BrokenPipeError:
        _exit("", EXIT_STOPPED)
    except OSError as error:  # the disk is full, a folder is read-only, a file is in the way of a folder
        _exit(f"error: {_explained(error)}", EXIT_USER_ERROR)


def _enter_project(options: argparse.Namespace) -> None:
    """Work in the given project; paths on the command line stay relative to the folder of the caller.

    Raises:
        ParamsError: if the folder is not a project.
    """
    variable = None if PARAMS_FILE.is_file() else os.environ.get(PROJECT_VARIABLE)
    folder = options.project or (Path(variable) if variable else None)
    if folder is None:
        return
    if not (folder / PARAMS_FILE).is_file():
        source = "--project" if options.project else PROJECT_VARIABLE
        raise ParamsError(f"{source}: {quoted(str(folder))} has no {PARAMS_FILE}; give the folder of a project")
    for name, value in vars(options).items():
        is_default = value is PARAMS_FILE or value is paths.RESULTS
        if isinstance(value, Path) and not is_default:
            setattr(options, name, value.absolute())
    os.chdir(folder)


def _show(text: str, file: TextIO | None = None) -> None:
    """Print text that names files or values from outside: what would control the terminal is escaped."""
    print(printable(text), file=file)


def _explained(error: OSError) -> str:
    """Return the message of an error of the operating system: which file, what is wrong and what to do."""
    if error.errno in WRITE_REFUSED:
        return str(cannot_write(error.filename or "the output", error))
    place = "" if error.filename is None else f"{quoted_key(str(error.filename))}: "
    reason = error.strerror or quoted_key(str(error))
    return f"{place}{reason}; correct the path, fix its permissions or free some disk space, then rerun"


def _exit(text: str, status: int) -> NoReturn:
    """Print a message and end the process, without a complaint about output that nobody can read."""
    with suppress(OSError):
        if text:
            print(text, file=sys.stderr, flush=True)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fewshot", description=__doc__.split("\n")[0])
    parser.add_argument("--project", type=Path, metavar="DIR", help=PROJECT_HELP)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--project", type=Path, default=argparse.SUPPRESS, metavar="DIR", help=PROJECT_HELP)
        added.add_argument("--suite", metavar="SUITE", help="default: the one named by `suite:` in params.yaml")
        added.add_argument("--params", type=Path, default=PARAMS_FILE, metavar="FILE", help="default: %(default)s")
        return added

    # For commands that are about a suite alone: its name with or without --suite.
    suite_argument: dict[str, Any] = {"nargs": "?", "default": argparse.SUPPRESS, "help": "the same as --suite"}

    def stage(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = command(name, run, text)
        added.add_argument(
            "--results",
            type=Path,
            default=paths.RESULTS,
            metavar="DIR",
            help="root folder of the results (default: %(default)s)",
        )
        added.add_argument(
            "--verify", action="store_true", help=f"read every file again, as {ALWAYS_READ}=1 does for all commands"
        )
        return added

    def job(name: str, run: Command, text: str, what: str) -> argparse.ArgumentParser:
        added = stage(name, run, text)
        added.add_argument("name", metavar=what)
        added.add_argument("--key", help="refuse to run if the plan gives the job a different key")
        return added

    job("download", _download, "Download the raw files of a data set.", "dataset")
    job("prepare", _prepare, "Build the verified store, frozen episodes and contact sheet of a data set.", "dataset")
    job("train", _train, "Train one experiment, or resume it from its checkpoint.", "experiment")
    evaluating = job("evaluate", _evaluate, "Evaluate a trained experiment at all shots.", "experiment")
    evaluating.add_argument("--target", help="data set to test on (default: all targets of the experiment)")
    evaluating.add_argument(
        "--weights", type=Path, metavar="FILE", help="evaluate this weights file instead and print the result"
    )
    testing = stage("test", _test, "Test any finished training with another protocol; nothing is trained.")
    testing.epilog = "What is not given stays as in the experiment. Results are kept in results/tests and cache/."
    testing.add_argument(
        "name", metavar="experiment", help="name of an experiment or training, or the start of a training's key"
    )
    testing.add_argument("--shots", type=_numbers, metavar="1,5", help="support images per class")
    testing.add_argument("--ways", type=int, help="classes per episode")
    testing.add_argument("--queries", type=int, help="query images per class")
    testing.add_argument("--episodes", type=int, help="test episodes per number of shots")
    testing.add_argument("--target", type=_names, metavar="NAME,...", help="data sets to test on")
    testing.add_argument(
        "--variant", type=_names, metavar="NAME,...", help="entries of `variants` in params.yaml, or as_trained"
    )
    testing.add_argument("--split", help="train, validation or test")
    testing.add_argument("--seed", type=int, help="seed of the test episodes")
    reporting = stage("report", _report, "Write the tables, figures and report of a suite.")
    reporting.add_argument(
        "--allow-missing", action="store_true", help="write partial tables of the results that exist"
    )
    reporting.add_argument("--out", type=Path, help="output folder (default: results/tables/<suite>)")
    exporting = job(
        "export", _export, "Write the weights, settings and model card of a trained experiment.", "experiment"
    )
    exporting.add_argument("--out", type=Path, help="output folder (default: exports/<experiment>)")
    episodes = command(
        "episodes", _episodes, "Write the frozen test episodes of a data set as JSON lines, or check a file."
    )
    episodes.add_argument("action", choices=("export", "check"))
    episodes.add_argument("name", metavar="dataset")
    episodes.add_argument("file", type=Path, help="format: docs/export.md")
    checking = command(
        "check", _check, "Check params.yaml (every suite, key, value and combination), or the addresses of the data."
    )
    checking.add_argument(
        "--mirrors", action="store_true", help="ask every address of every data set; fail if one has no working mirror"
    )
    command("doctor", _doctor, "Look for what this machine lacks to run the project, and say what to do.")
    listing = command("list", _list, "List the experiments of a suite: keys, status and the command for each.")
    listing.add_argument("suite", **suite_argument)
    listing.add_argument("--json", action="store_true", help="print JSON, with settings and paths")
    creating = command("new", _new, "Write experiments/NAME.yaml: a commented suite that starts as an experiment.")
    creating.add_argument("name", metavar="NAME", help="name of the new suite")
    creating.add_argument("--like", required=True, metavar="EXPERIMENT", help="experiment of any suite to start from")
    showing = command("show", _show_results, "Show the table of a suite, or the card of an experiment; nothing is run.")
    showing.add_argument(
        "name", nargs="?", metavar="suite|experiment", help="default: the table of the suite named by `suite:`"
    )
    watching = command("watch", _watch, "Show the jobs at work, also of a run in another terminal, until it ends.")
    watching.add_argument("suite", **suite_argument)
    explaining = command(
        "explain", _explain, "Show what the keys of an experiment depend on and what changed since its last result."
    )
    explaining.add_argument("name", metavar="experiment")
    comparing = command("compare", _compare, "Show the paired difference of two experiments: interval and p per shot.")
    comparing.epilog = "A name without its seed (-s0) stands for all seeds in the suite. Nothing is computed."
    comparing.add_argument("first", metavar="A", help="experiment of any suite")
    comparing.add_argument("second", metavar="B", help="experiment of any suite")
    pruning = command(
        "prune", _prune, "List results that no suite, branch, tag or experiment needs; --delete deletes them."
    )
    pruning.add_argument("--delete", action="store_true", help="delete what is listed (default: only list)")
    pruning.add_argument(
        "--ignore-refs", action="store_true", help="do not keep results recorded only by a dvc.lock in git"
    )
    tidying = command("tidy", _tidy, "Move results that are not part of the suite out of results/ (cache/ keeps them).")
    tidying.add_argument("stage", choices=paths.STAGES)
    expected = stage(
        "expected", _expected, "Write expected.yaml and expected.npz from a finished suite with several training seeds."
    )
    expected.add_argument(
        "--title", required=True, type=_title, help='description of the run, such as "glyphs, seeds 1 to 8"'
    )
    expected.add_argument("--version", default=__version__, help="version of the project (default: %(default)s)")
    expected.add_argument("--address", default="", help="where its evidence is published")
    expected.add_argument("--out", type=Path, metavar="FILE", help="the .yaml file (default: the one in the package)")
    command(
        "coverage",
        _coverage,
        "Show how many rows of each suite (or of --suite) can get a verdict, and why the others cannot.",
    )
    evidence = command(
        "evidence", _evidence, "Update the tables in the documents: results from docs/evidence, and the coverage."
    )
    evidence.add_argument("--take", action="store_true", help="first copy the suite's tables to docs/evidence")
    evidence.add_argument("--check", action="store_true", help="fail if a document shows a different table")
    completing = command(
        "completion", _completion, "Print the completion script of a shell, or the names it completes."
    )
    completing.add_argument("what", choices=("bash", "zsh", "experiments", "suites", "datasets"))
    completing.epilog = 'For example in ~/.bashrc:  eval "$(fewshot completion bash)"'
    bundling = command("bundle", _bundle, "Pack experiments of a suite for a machine without network: docs/gpus.md.")
    bundling.add_argument("names", nargs="*", metavar="experiment", help="default: all of the suite")
    bundling.add_argument("--out", type=Path, default=Path("bundle"), metavar="DIR", help="default: %(default)s")
    bundling.add_argument("--python-version", default="3.12", help="of the other machine (default: %(default)s)")
    bundling.add_argument("--platform", type=_names, metavar="TAG,...", help="of its wheels (default: Linux, x86-64)")
    bundling.add_argument("--wheels", type=_names, metavar="NAME,...", help="packages to bring, or none")
    bundling.add_argument(
        "--part-mb", type=positive(float), default=58.0, help="largest part, 10^6 bytes (default: %(default)s)"
    )
    unbundling = stage("unbundle", _unbundle, "Take the results of a bundle that another machine computed.")
    unbundling.add_argument("folder", type=Path, help="where run.py wrote them")
    schema = command("schema", _schema, "Print the JSON schema of params.yaml.")
    schema.add_argument("--check", action="store_true", help=f"fail if {SCHEMA_FILE} is out of date")
    schema.add_argument("--write", action="store_true", help=f"write {SCHEMA_FILE}")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    move_old_entries()
    return load_plan(
        options.params,
        suite=options.suite,
        results=getattr(options, "results", paths.RESULTS),
        other_suites=getattr(options, "key", None) is None,  # a job of a plan needs only its own
    )


def _check_suite(options: argparse.Namespace, params: Params) -> None:
    """Refuse an unknown `--suite`."""
    if options.suite is not None:
        check_suite_name(options.suite, params.suites, "--suite")


def _import_jobs(plan: Plan) -> ModuleType:
    return import_jobs(plan.params.train.threads)


def import_jobs(threads: int) -> ModuleType:
    """Import the modules that compute, after setting what libraries read on import, such as the number of threads.

    Raises:
        ParamsError: if this process was forked from one that has imported them for another number.
    """
    if warm_threads not in (None, threads):
        raise ParamsError(
            f"train.threads is {threads}, but the process named by FEWSHOT_WARM computes with {warm_threads}; "
            "unset FEWSHOT_WARM"
        )
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # so that cuBLAS gives the same bits every time
    save_digests()
    with exit_on_signals():
        from fewshot.workflow import jobs

    return jobs


def _show_made(outcome: str, job: Job) -> None:
    """Print where the result of a job is, and what this process and those it started have used."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in used)
    mib = max(usage.ru_maxrss for usage in used) / (2**20 if sys.platform == "darwin" else 2**10)
    _show(f"{outcome}: {job.dir} ({seconds:.1f} s of CPU time, at most {mib:,.0f} MiB of memory)")


def _download(options: argparse.Namespace) -> None:
    plan = _plan(options)
    _import_jobs(plan).download_job(plan.find("prepare", options.name))


def _prepare(options: argparse.Namespace) -> None:
    plan = _plan(options)
    job = plan.find("prepare", options.name, options.key)
    _show_made(_import_jobs(plan).prepare_job(job), job)


def _train(options: argparse.Namespace) -> None:
    plan = _plan(options)
    job = plan.find("train", options.name, options.key)
    _show_made(_import_jobs(plan).train_job(job, plan), job)


def _evaluate(options: argparse.Namespace) -> None:
    plan = _plan(options)
    first = plan.find("evaluate", options.name, options.key, options.target)
    jobs = _import_jobs(plan)
    for job in (first,) if options.key or options.target else plan.of_experiment(options.name):
        if options.weights:
            _show(jobs.evaluate_weights(job, plan, options.weights))
        else:
            _show_made(jobs.evaluate_job(job, plan), job)


def _test(options: argparse.Namespace) -> None:
    plan = _plan(options)
    given = {
        "shots": options.shots,
        "n_way": options.ways,
        "n_query": options.queries,
        "episodes": options.episodes,
        "targets": options.target,
        "variants": options.variant,
        "split": options.split,
        "seed": options.seed,
    }
    _import_jobs(plan)
    from fewshot.workflow.testing import evaluate_training, find_training

    found, name = find_training(plan, options.name)
    for line in evaluate_training(found, name, {key: value for key, value in given.items() if value is not None}):
        print(line)


def _names(text: str) -> tuple[str, ...]:
    """Return the names of a comma-separated list."""
    return tuple(part.strip() for part in text.split(","))


def _title(text: str) -> str:
    """Return a title that says something."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; describe the run, such as 'glyphs, seeds 1 to 8'")
    return text.strip()


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a comma-separated list."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not allowed: give numbers, such as 1,5") from None


def _report(options: argparse.Namespace) -> None:
    plan = _plan(options)
    from fewshot.workflow.suite_report import report_suite

    summary = report_suite(plan, options.out or plan.tables_dir, allow_missing=options.allow_missing)
    print(summary.text)
    _show(f"Report: {summary.out / 'report.html'}  (also results.csv .md .tex, runs.csv, figures/, curves/)")


def _export(options: argparse.Namespace) -> None:
    plan = _plan(options)
    out = options.out or paths.EXPORTS / options.name
    _import_jobs(plan).export_job(plan.experiment(options.name), plan, out, options.key)
    _show(f"wrote {out}")


def _episodes(options: argparse.Namespace) -> None:
    plan = _plan(options)
    jobs, job = _import_jobs(plan), plan.find("prepare", options.name)
    work = jobs.export_episodes if options.action == "export" else jobs.check_episodes
    _show(work(job, options.file))


def _check(options: argparse.Namespace) -> None:
    if options.mirrors:
        _check_mirrors(options)
        return
    from fewshot.workflow.check import check_file
    from fewshot.workflow.notes import plan_notes

    checked = check_file(options.params, options.suite)
    if checked.plans:
        print(checked.table)
    for line in dict.fromkeys(line for plan in checked.plans for line in plan_notes(plan)):
        _show(f"note: {line}", file=sys.stderr)
    if checked.problems:
        raise ParamsError("\n".join(checked.problems))


def _check_mirrors(options: argparse.Namespace) -> None:
    from fewshot.datasets.mirrors import (
        check_mirrors,
        mirror_table,
        no_mirror_message,
        published_settings,
        without_mirror,
    )

    rows = check_mirrors(published_settings(read_params(options.params).prepare))
    _show(mirror_table(rows))
    if unavailable := without_mirror(rows):
        raise FewshotError(no_mirror_message(unavailable))


def _doctor(options: argparse.Namespace) -> None:
    from fewshot.doctor import main as examine_machine

    if examine_machine(environment=Path(sys.prefix)):
        raise FewshotError("something required is missing; see above")


def _list(options: argparse.Namespace) -> None:
    from fewshot.workflow.listing import suite_json, suite_table
    from fewshot.workflow.notes import suite_notes

    plan = _plan(options)
    _show((suite_json if options.json else suite_table)(plan))
    for line in suite_notes(plan, read_files(options.params)):
        _show(f"note: {line}", file=sys.stderr)


def _show_results(options: argparse.Namespace) -> None:
    from fewshot.workflow.show import show

    plan, name = _plan(options), options.name
    if name in plan.params.suites:
        options.suite = name
        plan, name = _plan(options), None
    _show(show(plan, name))


def _watch(options: argparse.Namespace) -> None:
    from fewshot.workflow.watch import watch

    watch(_plan(options), sys.stdout)


def _compare(options: argparse.Namespace) -> None:
    from fewshot.workflow.compare import compare_experiments

    _show(compare_experiments(_plan(options), options.first, options.second))


def _new(options: argparse.Namespace) -> None:
    from fewshot.experiments.new_suite import write_suite

    file = write_suite(read_files(options.params), options.name, options.like)
    _show(f"wrote {file}\nedit it, then: fewshot list --suite {options.name}")


def _explain(options: argparse.Namespace) -> None:
    from fewshot.workflow.explain import explain_experiment

    _show(explain_experiment(_plan(options), options.name))


def _prune(options: argparse.Namespace) -> None:
    from fewshot.workflow import prune

    move_old_entries()
    files = read_files(options.params)
    params = files.parsed()
    _check_suite(options, params)
    with files.located():
        plans = prune.suite_plans(params, options.suite)
    needed = prune.planned_keys(plans) | (set() if options.ignore_refs else prune.recorded_keys())
    unneeded = prune.find_unneeded(plans, needed)
    if options.delete:
        unneeded, in_use = prune.delete_folders(unneeded)
        for folder in in_use:
            _show(f"skipped, in use by a running job: {folder.path}", file=sys.stderr)
    _show(prune.summary(unneeded, deleted=options.delete))


def _tidy(options: argparse.Namespace) -> None:
    from fewshot.workflow.listing import tidy_stage, untracked_paths

    plan = _plan(options)
    for folder in tidy_stage(plan, options.stage):
        _show(f"moved to {paths.CACHE}: {folder}")
    for path in untracked_paths(plan) if options.stage == "prepare" else ():
        _show(
            f"warning: {options.params} names {path}, but DVC does not track it: 'dvc repro' will not notice changes "
            f"to its content (snakemake will). Add it to the deps of stage prepare in dvc.yaml: - {path}",
            file=sys.stderr,
        )


def _expected(options: argparse.Namespace) -> None:
    from fewshot.report.expected import write_expected_of
    from fewshot.report.published import EXPECTED_FILE
    from fewshot.workflow.suite_report import suite_report

    source = {"title": options.title, "version": options.version, "address": options.address}
    files = write_expected_of(suite_report(_plan(options)), source, options.out or EXPECTED_FILE)
    print(f"wrote {' and '.join(map(str, files))}")


def _coverage(options: argparse.Namespace) -> None:
    from fewshot.report.coverage import coverage_table

    files = read_files(options.params)
    params = files.parsed()
    _check_suite(options, params)
    with files.located():
        print(coverage_table(params, None if options.suite is None else [options.suite]))


def _evidence(options: argparse.Namespace) -> None:
    from fewshot.workflow.evidence import copy_tables, update_documents

    if options.take:
        _show(f"wrote {copy_tables(_plan(options))}")
    changed = ", ".join(map(str, update_documents(check=options.check, params=options.params)))
    if changed and options.check:
        raise FewshotError(f"{changed}: tables differ from docs/evidence or params.yaml; run 'fewshot evidence'")


def _completion(options: argparse.Namespace) -> None:
    from fewshot.workflow import completion

    if options.what in completion.SHELLS:
        print(completion.completion_script(_parser(), options.what))
    else:
        print("\n".join(completion.names_of(read_params(options.params), options.what)))


def _bundle(options: argparse.Namespace) -> None:
    plan = _plan(options)
    _import_jobs(plan)
    from fewshot.workflow.bundle import PLATFORMS, WHEELS, Target, make_bundle

    wheels = WHEELS if options.wheels is None else tuple(name for name in options.wheels if name != "none")
    target = Target(options.python_version, options.platform or PLATFORMS, wheels, int(1e6 * options.part_mb))
    _show(make_bundle(plan, options.names, options.params, options.out, target))


def _unbundle(options: argparse.Namespace) -> None:
    plan = _plan(options)
    _import_jobs(plan)
    from fewshot.workflow.bundle import take_results

    _show(take_results(plan, options.folder))


def _schema(options: argparse.Namespace) -> None:
    text = schema_text()
    if options.write:
        if not SCHEMA_FILE.parent.is_dir():
            raise FewshotError(f"{SCHEMA_FILE.parent}: no such folder; run from a clone of the project")
        SCHEMA_FILE.write_text(text, encoding="utf-8")
    elif not options.check:
        print(text, end="")
    elif not SCHEMA_FILE.exists() or SCHEMA_FILE.read_text(encoding="utf-8") != text:
        raise FewshotError(f"{SCHEMA_FILE} is out of date; run 'fewshot schema --write'")
