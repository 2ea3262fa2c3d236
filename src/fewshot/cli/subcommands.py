"""The parser of `fewshot`: options that many subcommands share, and the types of values given as text."""

import argparse
from collections.abc import Callable
from pathlib import Path

from fewshot import paths
from fewshot.digests import ALWAYS_READ
from fewshot.errors import quoted
from fewshot.experiments.reader import PARAMS_FILE

DESCRIPTION = "Train and test few-shot learners: a subcommand per stage, and others to inspect results and clean up."
PROJECT_VARIABLE = "FEWSHOT_PROJECT"
PROJECT_HELP = f"project to work in (default: this folder, or ${PROJECT_VARIABLE} if it has no {PARAMS_FILE})"

Run = Callable[[argparse.Namespace], None]


class Subcommands:
    """The subcommands of a parser.

    Attributes:
        parser: of `fewshot`.
    """

    def __init__(self) -> None:
        self.parser = argparse.ArgumentParser(prog="fewshot", description=DESCRIPTION)
        self.parser.add_argument("--project", type=Path, metavar="DIR", help=PROJECT_HELP)
        self._all = self.parser.add_subparsers(required=True, metavar="command")

    def add(self, name: str, run: Run, text: str, epilog: str | None = None) -> argparse.ArgumentParser:
        """Add a subcommand; return its parser.

        Args:
            name: of the subcommand.
            run: does its work, with the options of the command line.
            text: its help.
            epilog: end of its help.
        """
        added = self._all.add_parser(name, help=text, description=text, epilog=epilog)
        added.set_defaults(run=run)
        added.add_argument("--project", type=Path, default=argparse.SUPPRESS, metavar="DIR", help=PROJECT_HELP)
        added.add_argument("--suite", metavar="SUITE", help="default: the one named by `suite:` in params.yaml")
        added.add_argument("--params", type=Path, default=PARAMS_FILE, metavar="FILE", help="default: %(default)s")
        return added

    def add_of_suite(self, name: str, run: Run, text: str) -> argparse.ArgumentParser:
        """Add a subcommand that is about a suite alone: its name may be given without `--suite`."""
        added = self.add(name, run, text)
        added.add_argument("named", nargs="?", metavar="suite", help="the same as --suite")
        return added

    def add_stage(self, name: str, run: Run, text: str, epilog: str | None = None) -> argparse.ArgumentParser:
        """Add a subcommand that reads or writes results."""
        added = self.add(name, run, text, epilog)
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

    def add_job(self, name: str, run: Run, text: str, what: str) -> argparse.ArgumentParser:
        """Add a subcommand that does one job of the plan.

        Args:
            name: of the subcommand.
            run: does its work.
            text: its help.
            what: the job is named by.
        """
        added = self.add_stage(name, run, text)
        added.add_argument("name", metavar=what)
        added.add_argument("--key", help="refuse to run if the plan gives the job a different key")
        return added


def names(text: str) -> tuple[str, ...]:
    """Return the names of a comma-separated list."""
    return tuple(part.strip() for part in text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a comma-separated list."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not allowed: give numbers, such as 1,5") from None


def title(text: str) -> str:
    """Return a title that says something."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; describe the run, such as 'glyphs, seeds 1 to 8'")
    return text.strip()
