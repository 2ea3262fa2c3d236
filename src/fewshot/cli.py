"""The command `fewshot`: one subcommand a stage, and small ones to look around and clean up.

Starts without torch; a subcommand that computes imports it after the number of threads is set.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fewshot import paths
from fewshot.digests import remember_digests
from fewshot.errors import FewshotError
from fewshot.experiments.params import schema_text
from fewshot.experiments.reader import PARAMS_FILE, read_params
from fewshot.workflow.plan import Plan, load_plan

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
SCHEMA_FILE = Path("workflow/schemas/params.schema.json")

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; errors that a user can mend are printed without a traceback, exit status 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except FewshotError as error:
        sys.exit(_failed(f"error: {error}", EXIT_USER_ERROR))
    except KeyboardInterrupt as error:
        text = str(error) or "interrupted; the same command goes on from the last checkpoint"
        sys.exit(_failed(text, EXIT_INTERRUPTED))
    except BrokenPipeError:
        sys.exit(_failed("", EXIT_INTERRUPTED))


def _failed(text: str, status: int) -> int:
    if text:
        print(text, file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fewshot", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable[[Any], None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--suite", help="a suite of params.yaml (default: its `suite:`)")
        added.add_argument("--params", type=Path, default=PARAMS_FILE, metavar="FILE", help="default: %(default)s")
        return added

    def stage(name: str, run: Callable[[Any], None], text: str) -> argparse.ArgumentParser:
        added = command(name, run, text)
        added.add_argument(
            "--results",
            type=Path,
            default=paths.RESULTS,
            metavar="DIR",
            help="where results lie (default: %(default)s)",
        )
        return added

    def job(name: str, run: Callable[[Any], None], text: str, what: str) -> argparse.ArgumentParser:
        added = stage(name, run, text)
        added.add_argument("name", metavar=what)
        added.add_argument("--key", help="refuse to run if the plan now gives the job another key")
        return added

    job("download", _download, "Fetch the raw files of a data set.", "dataset")
    job("prepare", _prepare, "Build a data set's verified store, frozen episodes and contact sheet.", "dataset")
    job("train", _train, "Train one experiment, or go on from its checkpoint.", "experiment")
    evaluating = job("evaluate", _evaluate, "Evaluate a trained experiment, all shots.", "experiment")
    evaluating.add_argument("--target", help="data set to test on (default: all targets of the experiment)")
    evaluating.add_argument("--weights", type=Path, metavar="FILE", help="evaluate these weights and print the result")
    reporting = stage("report", _report, "Write tables, figures and the report of a suite.")
    reporting.add_argument("--allow-missing", action="store_true", help="make a partial table of what exists")
    reporting.add_argument("--out", type=Path, help="folder (default: results/tables/<suite>)")
    exporting = job(
        "export", _export, "Write weights, settings and a model card of a trained experiment.", "experiment"
    )
    exporting.add_argument("--out", type=Path, help="folder (default: exports/<experiment>)")
    episodes = command("episodes", _episodes, "Write a data set's frozen test episodes as JSON lines, or check a file.")
    episodes.add_argument("action", choices=("export", "check"))
    episodes.add_argument("name", metavar="dataset")
    episodes.add_argument("file", type=Path, help="format: docs/export.md")
    listing = command("list", _list, "Show the experiments of a suite: keys, what exists, how to run one.")
    listing.add_argument("--json", action="store_true", help="as JSON, with settings and paths")
    explaining = command(
        "explain", _explain, "Show what an experiment's keys depend on, and what changed since its last result."
    )
    explaining.add_argument("name", metavar="experiment")
    pruning = command(
        "prune", _prune, "Show what no suite and no branch, tag or experiment needs; --delete deletes it."
    )
    pruning.add_argument("--delete", action="store_true", help="delete what is shown (the default only shows)")
    pruning.add_argument(
        "--ignore-refs", action="store_true", help="do not keep what only a dvc.lock in git has recorded"
    )
    tidying = command(
        "tidy", _tidy, "Move results that the suite does not ask for out of results/ (cache/ keeps them)."
    )
    tidying.add_argument("stage", choices=paths.STAGES)
    evidence = command("evidence", _evidence, "Keep the tables of the documents those of committed runs.")
    evidence.add_argument("--take", action="store_true", help="commit the suite's tables to docs/evidence first")
    evidence.add_argument("--check", action="store_true", help="fail if a document shows another table")
    schema = command("schema", _schema, "Print the JSON schema of params.yaml.")
    schema.add_argument("--check", action="store_true", help=f"fail if {SCHEMA_FILE} is not the schema of the types")
    schema.add_argument("--write", action="store_true", help=f"write {SCHEMA_FILE}")
    return parser


def _plan(options: Any) -> Plan:
    return load_plan(options.params, suite=options.suite, results=getattr(options, "results", paths.RESULTS))


def _computing(plan: Plan) -> Any:
    """Import what computes, after the number of threads is set: libraries read it when they start."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(plan.params.train.threads)
    remember_digests()
    from fewshot.workflow import jobs

    return jobs


def _download(options: Any) -> None:
    plan = _plan(options)
    _computing(plan).download_job(plan.find("prepare", options.name))


def _prepare(options: Any) -> None:
    plan = _plan(options)
    job = plan.find("prepare", options.name, options.key)
    print(f"{_computing(plan).prepare_job(job)}: {job.dir}")


def _train(options: Any) -> None:
    plan = _plan(options)
    job = plan.find("train", options.name, options.key)
    print(f"{_computing(plan).train_job(job, plan)}: {job.dir}")


def _evaluate(options: Any) -> None:
    plan = _plan(options)
    first = plan.find("evaluate", options.name, options.key, options.target)
    compute = _computing(plan)
    for job in (first,) if options.key or options.target else plan.of_experiment(options.name):
        if options.weights:
            print(compute.evaluate_weights(job, plan, options.weights))
        else:
            print(f"{compute.evaluate_job(job, plan)}: {job.dir}")


def _report(options: Any) -> None:
    plan = _plan(options)
    from fewshot.workflow.suite_report import report_suite

    summary = report_suite(plan, options.out or plan.tables_dir, allow_missing=options.allow_missing)
    print(summary.text)
    print(f"Report: {summary.out / 'report.html'}  (beside it: results.csv .md .tex, runs.csv, figures/, curves/)")


def _export(options: Any) -> None:
    plan = _plan(options)
    out = options.out or paths.EXPORTS / options.name
    _computing(plan).export_job(plan.find("train", options.name, options.key), plan, out)
    print(f"written: {out}")


def _episodes(options: Any) -> None:
    plan = _plan(options)
    compute, job = _computing(plan), plan.find("prepare", options.name)
    work = compute.export_episodes if options.action == "export" else compute.check_episodes
    print(work(job, options.file))


def _list(options: Any) -> None:
    from fewshot.workflow.listing import suite_json, suite_table

    print((suite_json if options.json else suite_table)(_plan(options)))


def _explain(options: Any) -> None:
    from fewshot.workflow.explain import explain_experiment

    print(explain_experiment(_plan(options), options.name))


def _prune(options: Any) -> None:
    from fewshot.workflow import prune

    plans = prune.suite_plans(read_params(options.params), options.suite)
    needed = prune.planned_keys(plans) | (set() if options.ignore_refs else prune.recorded_keys())
    found = prune.leftovers(plans, needed)
    if options.delete:
        found, used = prune.delete(found)
        for item in used:
            print(f"left alone, a job is at work there: {item.path}", file=sys.stderr)
    print(prune.described(found, deleted=options.delete))


def _tidy(options: Any) -> None:
    from fewshot.workflow.listing import tidy_stage, unwatched_paths

    plan = _plan(options)
    for folder in tidy_stage(plan, options.stage):
        print(f"moved to {paths.CACHE}: {folder}")
    for path in unwatched_paths(plan) if options.stage == "prepare" else ():
        print(
            f"warning: {path} is given in {options.params}, but DVC does not watch it: when its content changes, 'dvc "
            f"repro' will not notice (snakemake will). Add it to the deps of stage prepare in dvc.yaml: - {path}",
            file=sys.stderr,
        )


def _evidence(options: Any) -> None:
    from fewshot.workflow.evidence import take, update_documents

    if options.take:
        print(f"written: {take(_plan(options))}")
    changed = ", ".join(map(str, update_documents(check=options.check)))
    if changed and options.check:
        raise FewshotError(f"{changed}: shows other numbers than docs/evidence; run 'fewshot evidence'")


def _schema(options: Any) -> None:
    text = schema_text()
    if options.write:
        SCHEMA_FILE.write_text(text, encoding="utf-8")
    elif not options.check:
        print(text, end="")
    elif not SCHEMA_FILE.exists() or SCHEMA_FILE.read_text(encoding="utf-8") != text:
        raise FewshotError(f"{SCHEMA_FILE} is not what the types in params.py give; run 'fewshot schema --write'")
