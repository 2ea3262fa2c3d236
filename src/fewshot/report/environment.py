"""Where the numbers come from: code, machine, versions and data."""

import subprocess
from collections.abc import Iterable, Iterator

from fewshot.paths import PACKAGE_DIR
from fewshot.report.contents import Contents
from fewshot.report.runtimes import training_facts

MACHINE = {
    "machine.device": "device of the trainings",
    "machine.device_name": "processor",
    "machine.cpu_capability": "vector instructions",
    "machine.threads": "threads",
    "machine.python": "Python",
}


def environment(contents: Contents) -> list[tuple[str, str]]:
    """Return (name, values) of the commit, the machines, the software and the data behind the numbers."""
    code = ("commit of the code that wrote this page", commit())
    return [code, *_machines(contents), *_versions(contents), *_data(contents)]


def commit() -> str:
    """Return the git commit of the package's code, with "-dirty" if it was changed since."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=PACKAGE_DIR, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown: the code is not in a git repository"
    return done.stdout.strip()


def _machines(contents: Contents) -> Iterator[tuple[str, str]]:
    facts = [training_facts(entry) for entry in contents.trainings]
    for name, title in MACHINE.items():
        values = [str(fact[name]) for fact in facts if name in fact]
        if values:
            yield title, _joined(values)


def _versions(contents: Contents) -> Iterator[tuple[str, str]]:
    """Yield (name, versions) of the software that computed the numbers."""
    found: dict[str, list[str]] = {}
    for run in contents.runs:
        for name, version in run.protocol["versions"].items():
            found.setdefault(name, []).append(str(version))
    yield from ((name, _joined(versions)) for name, versions in sorted(found.items()))


def _data(contents: Contents) -> Iterator[tuple[str, str]]:
    """Yield the hashes of the images and of the test episodes of each target."""
    for target in dict.fromkeys(run.entry.target for run in contents.runs):
        runs = [run for run in contents.runs if run.entry.target == target]
        yield f"SHA-256 of the images of {target}", _joined(run.protocol["data_hash"] for run in runs)
        yield "SHA-256 of its test episodes", _joined(run.protocol["episodes_hash"] for run in runs)


def _joined(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))
