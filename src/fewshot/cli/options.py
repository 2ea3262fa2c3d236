"""What several subcommands do with their options."""

import argparse
from typing import TextIO

from fewshot import paths
from fewshot.errors import ParamsError, printable
from fewshot.experiments.matrix import check_suite_name
from fewshot.experiments.params import Params
from fewshot.workflow.old_layout import move_old_entries
from fewshot.workflow.plan import Plan, load_plan


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan of the chosen suite.

    Raises:
        ParamsError: if two different suites are named.
    """
    choose_suite(options, getattr(options, "named", None))
    move_old_entries()
    return load_plan(
        options.params,
        suite=options.suite,
        results=getattr(options, "results", paths.RESULTS),
        other_suites=getattr(options, "key", None) is None,  # a job of a plan needs only its own
    )


def choose_suite(options: argparse.Namespace, named: str | None) -> None:
    """Take a suite that is named without `--suite` as the chosen one; refuse another one beside it."""
    if named is not None and options.suite not in (None, named):
        raise ParamsError(f"two suites are given, {named} and --suite {options.suite}; leave one out")
    options.suite = named or options.suite


def check_suite(options: argparse.Namespace, params: Params) -> None:
    """Refuse an unknown `--suite`."""
    if options.suite is not None:
        check_suite_name(options.suite, params.suites, "--suite")


def show(text: str, file: TextIO | None = None) -> None:
    """Print text that names files or values from outside: what would control the terminal is escaped."""
    print(printable(text), file=file)
