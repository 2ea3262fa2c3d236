"""Shell completion of `fewshot`: commands and options from its parser, names from params.yaml when a key is pressed."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import shtab

from fewshot.datasets import DATASETS
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Params

SHELLS = ("bash", "zsh")
KINDS = ("experiments", "suites", "datasets")

# Placeholder of an argument in the help -> kinds of names that complete it.
PLACEHOLDERS = {
    "experiment": ("experiments",),
    "EXPERIMENT": ("experiments",),
    "A": ("experiments",),
    "B": ("experiments",),
    "suite|experiment": ("suites", "experiments"),
    "SUITE": ("suites",),
    "suite": ("suites",),
    "dataset": ("datasets",),
}


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes the command line in a shell.

    Args:
        parser: of `fewshot`.
        shell: bash or zsh.
    """
    for action in _arguments(parser):
        kinds = PLACEHOLDERS.get(str(action.metavar))
        if kinds:
            action.complete = {name: _function(kinds) for name in SHELLS}  # type: ignore[attr-defined]
        elif action.type is Path:
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
    script: str = shtab.complete(parser, shell, preamble=_functions(shell))
    return script


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _arguments(command)


def _function(kinds: tuple[str, ...]) -> str:
    """Return the name of the shell function that completes names of these kinds."""
    return f"_fewshot_{'_'.join(kinds)}"


def _functions(shell: str) -> str:
    """Return the shell functions, which ask `fewshot` for the names."""
    lines = []
    for kinds in dict.fromkeys(PLACEHOLDERS.values()):
        names = "; ".join(f"fewshot completion {kind} 2> /dev/null" for kind in kinds)
        body = f'compgen -W "$({names})" -- "$1"' if shell == "bash" else f"compadd -- $({names})"
        lines.append(f"{_function(kinds)}() {{ {body}; }}")
    return "\n".join(lines)


def names_of(params: Params, kind: str) -> list[str]:
    """Return the names of one kind in a parameter file, each once: experiments are those of all suites."""
    if kind == "suites":
        return list(params.suites)
    if kind == "datasets":
        return sorted({*DATASETS, *params.prepare})
    return list(dict.fromkeys(job.name for suite in params.suites for job in suite_experiments(params, suite)))
