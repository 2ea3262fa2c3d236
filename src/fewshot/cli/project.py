"""Subcommands about the project, its settings and this machine: checks, new suites, clean-up."""

import argparse
import sys
from pathlib import Path

from fewshot import paths
from fewshot.cli.options import check_suite, plan_of, show
from fewshot.cli.subcommands import Subcommands
from fewshot.errors import FewshotError, ParamsError
from fewshot.experiments.params import schema_text
from fewshot.experiments.reader import read_files, read_params
from fewshot.workflow.old_layout import move_old_entries

SCHEMA_FILE = Path("workflow/schemas/params.schema.json")


def add_to(subcommands: Subcommands) -> None:
    """Add the subcommands of this module."""
    checking = subcommands.add(
        "check", _check, "Check params.yaml (every suite, key, value and combination), or the addresses of the data."
    )
    checking.add_argument(
        "--mirrors", action="store_true", help="ask every address of every data set; fail if one has no working mirror"
    )
    subcommands.add("doctor", _doctor, "Look for what this machine lacks to run the project, and say what to do.")
    creating = subcommands.add(
        "new", _new, "Write experiments/NAME.yaml: a commented suite that starts as an experiment."
    )
    creating.add_argument("name", metavar="NAME", help="name of the new suite")
    creating.add_argument("--like", required=True, metavar="EXPERIMENT", help="experiment of any suite to start from")
    pruning = subcommands.add(
        "prune", _prune, "List results that no suite, branch, tag or experiment needs; --delete deletes them."
    )
    pruning.add_argument("--delete", action="store_true", help="delete what is listed (default: only list)")
    pruning.add_argument(
        "--ignore-refs", action="store_true", help="do not keep results recorded only by a dvc.lock in git"
    )
    tidying = subcommands.add(
        "tidy", _tidy, "Move results that are not part of the suite out of results/ (cache/ keeps them)."
    )
    tidying.add_argument("stage", choices=paths.STAGES)
    completing = subcommands.add(
        "completion",
        _completion,
        "Print the completion script of a shell, or the names it completes.",
        epilog='For example in ~/.bashrc:  eval "$(fewshot completion bash)"',
    )
    completing.set_defaults(parser=subcommands.parser)
    completing.add_argument("what", choices=("bash", "zsh", "experiments", "suites", "datasets"))
    schema = subcommands.add("schema", _schema, "Print the JSON schema of params.yaml.")
    schema.add_argument("--check", action="store_true", help=f"fail if {SCHEMA_FILE} is out of date")
    schema.add_argument("--write", action="store_true", help=f"write {SCHEMA_FILE}")


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
        show(f"note: {line}", file=sys.stderr)
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
    show(mirror_table(rows))
    if unavailable := without_mirror(rows):
        raise FewshotError(no_mirror_message(unavailable))


def _doctor(options: argparse.Namespace) -> None:
    from fewshot.doctor import main as examine_machine

    if examine_machine(environment=Path(sys.prefix)):
        raise FewshotError("something required is missing; see above")


def _new(options: argparse.Namespace) -> None:
    from fewshot.experiments.new_suite import write_suite

    file = write_suite(read_files(options.params), options.name, options.like)
    show(f"wrote {file}\nedit it, then: fewshot list --suite {options.name}")


def _prune(options: argparse.Namespace) -> None:
    from fewshot.workflow import prune

    move_old_entries()
    files = read_files(options.params)
    params = files.parsed()
    check_suite(options, params)
    with files.located():
        plans = prune.suite_plans(params, options.suite)
    needed = prune.planned_keys(plans) | (set() if options.ignore_refs else prune.recorded_keys())
    unneeded = prune.find_unneeded(plans, needed)
    if options.delete:
        unneeded, in_use = prune.delete_folders(unneeded)
        for folder in in_use:
            show(f"skipped, in use by a running job: {folder.path}", file=sys.stderr)
    show(prune.summary(unneeded, deleted=options.delete))


def _tidy(options: argparse.Namespace) -> None:
    from fewshot.workflow.listing import tidy_stage, untracked_paths

    plan = plan_of(options)
    for folder in tidy_stage(plan, options.stage):
        show(f"moved to {paths.CACHE}: {folder}")
    for path in untracked_paths(plan) if options.stage == "prepare" else ():
        show(
            f"warning: {options.params} names {path}, but DVC does not track it: 'dvc repro' will not notice changes "
            f"to its content (snakemake will). Add it to the deps of stage prepare in dvc.yaml: - {path}",
            file=sys.stderr,
        )


def _completion(options: argparse.Namespace) -> None:
    from fewshot.workflow import completion

    if options.what in completion.SHELLS:
        print(completion.completion_script(options.parser, options.what))
    else:
        print("\n".join(completion.names_of(read_params(options.params), options.what)))


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
