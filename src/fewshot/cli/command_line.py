"""Runs one subcommand: where it works, how its errors are told, and its exit status."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from fewshot import paths
from fewshot.cli import jobs, project, results
from fewshot.cli.subcommands import PROJECT_VARIABLE, Subcommands
from fewshot.digests import ALWAYS_READ
from fewshot.errors import FewshotError, ParamsError, quoted, quoted_key
from fewshot.experiments.reader import PARAMS_FILE
from fewshot.files import WRITE_REFUSED, cannot_write
from fewshot.progress import accept_any_encoding
from fewshot.training.stop_signals import EXIT_STOPPED

EXIT_USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand.

    The exit status is 0 if it succeeded, 2 after an error that the user can fix, which is printed without a traceback,
    and 130 if a signal or the end of the reading program stopped it.
    """
    accept_any_encoding()
    try:
        options = make_parser().parse_args(arguments)
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


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `fewshot` with all its subcommands."""
    subcommands = Subcommands()
    for module in (jobs, results, project):
        module.add_to(subcommands)
    return subcommands.parser


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
