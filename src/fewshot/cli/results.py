"""Subcommands that show results and what is planned: tables, comparisons, states, evidence."""

import argparse
import sys
from pathlib import Path

from fewshot import __version__
from fewshot.cli.options import check_suite, choose_suite, plan_of, show
from fewshot.cli.subcommands import Subcommands, title
from fewshot.errors import FewshotError
from fewshot.experiments.reader import read_files


def add_to(subcommands: Subcommands) -> None:
    """Add the subcommands of this module."""
    listing = subcommands.add_of_suite(
        "list", _list, "List the experiments of a suite: keys, status and the command for each."
    )
    listing.add_argument("--json", action="store_true", help="print JSON, with settings and paths")
    subcommands.add_of_suite(
        "watch", _watch, "Show the jobs at work, also of a run in another terminal, until it ends."
    )
    reporting = subcommands.add_stage("report", _report, "Write the tables, figures and report of a suite.")
    reporting.add_argument(
        "--allow-missing", action="store_true", help="write partial tables of the results that exist"
    )
    reporting.add_argument("--out", type=Path, help="output folder (default: results/tables/<suite>)")
    showing = subcommands.add("show", _show, "Show the table of a suite, or the card of an experiment; nothing is run.")
    showing.add_argument(
        "name", nargs="?", metavar="suite|experiment", help="default: the table of the suite named by `suite:`"
    )
    comparing = subcommands.add(
        "compare",
        _compare,
        "Show the paired difference of two experiments: interval and p per shot.",
        epilog="A name without its seed (-s0) stands for all seeds in the suite. Nothing is computed.",
    )
    comparing.add_argument("first", metavar="A", help="experiment of any suite")
    comparing.add_argument("second", metavar="B", help="experiment of any suite")
    explaining = subcommands.add(
        "explain", _explain, "Show what the keys of an experiment depend on and what changed since its last result."
    )
    explaining.add_argument("name", metavar="experiment")
    _add_documents(subcommands)


def _add_documents(subcommands: Subcommands) -> None:
    subcommands.add(
        "coverage",
        _coverage,
        "Show how many rows of each suite (or of --suite) can get a verdict, and why the others cannot.",
    )
    expected = subcommands.add_stage(
        "expected", _expected, "Write expected.yaml and expected.npz from a finished suite with several training seeds."
    )
    expected.add_argument(
        "--title", required=True, type=title, help='description of the run, such as "glyphs, seeds 1 to 8"'
    )
    expected.add_argument("--version", default=__version__, help="version of the project (default: %(default)s)")
    expected.add_argument("--address", default="", help="where its evidence is published")
    expected.add_argument("--out", type=Path, metavar="FILE", help="the .yaml file (default: the one in the package)")
    evidence = subcommands.add(
        "evidence", _evidence, "Update the tables in the documents: results from docs/evidence, and the coverage."
    )
    evidence.add_argument("--take", action="store_true", help="first copy the suite's tables to docs/evidence")
    evidence.add_argument("--check", action="store_true", help="fail if a document shows a different table")


def _list(options: argparse.Namespace) -> None:
    from fewshot.workflow.listing import suite_json, suite_table
    from fewshot.workflow.notes import suite_notes

    plan = plan_of(options)
    show((suite_json if options.json else suite_table)(plan))
    for line in suite_notes(plan, read_files(options.params)):
        show(f"note: {line}", file=sys.stderr)


def _watch(options: argparse.Namespace) -> None:
    from fewshot.workflow.watch import watch

    watch(plan_of(options), sys.stdout)


def _report(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    from fewshot.workflow.suite_report import report_suite

    summary = report_suite(plan, options.out or plan.tables_dir, allow_missing=options.allow_missing)
    print(summary.text)
    show(f"Report: {summary.out / 'report.html'}  (also results.csv .md .tex, runs.csv, figures/, curves/)")


def _show(options: argparse.Namespace) -> None:
    from fewshot.workflow.show import show as card_or_table

    plan, name = plan_of(options), options.name
    if name in plan.params.suites:
        choose_suite(options, name)
        plan, name = plan_of(options), None
    show(card_or_table(plan, name))


def _compare(options: argparse.Namespace) -> None:
    from fewshot.workflow.compare import compare_experiments

    show(compare_experiments(plan_of(options), options.first, options.second))


def _explain(options: argparse.Namespace) -> None:
    from fewshot.workflow.explain import explain_experiment

    show(explain_experiment(plan_of(options), options.name))


def _coverage(options: argparse.Namespace) -> None:
    from fewshot.report.coverage import coverage_table

    files = read_files(options.params)
    params = files.parsed()
    check_suite(options, params)
    with files.located():
        print(coverage_table(params, None if options.suite is None else [options.suite]))


def _expected(options: argparse.Namespace) -> None:
    from fewshot.report.expected import write_expected_of
    from fewshot.report.published import EXPECTED_FILE
    from fewshot.workflow.suite_report import suite_report

    source = {"title": options.title, "version": options.version, "address": options.address}
    files = write_expected_of(suite_report(plan_of(options)), source, options.out or EXPECTED_FILE)
    print(f"wrote {' and '.join(map(str, files))}")


def _evidence(options: argparse.Namespace) -> None:
    from fewshot.workflow.evidence import copy_tables, update_documents

    if options.take:
        show(f"wrote {copy_tables(plan_of(options))}")
    changed = ", ".join(map(str, update_documents(check=options.check, params=options.params)))
    if changed and options.check:
        raise FewshotError(f"{changed}: tables differ from docs/evidence or params.yaml; run 'fewshot evidence'")
