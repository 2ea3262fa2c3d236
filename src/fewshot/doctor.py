"""Can this machine install and run the project? `make doctor`, before anything is installed, or `fewshot doctor`.

Standard library only, and nothing newer than Python 3.7, so that an old Python can say that it is too old.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

OLDEST_PYTHON = (3, 11)
INSTALLATION_GB = 6.5
RUN_GB = 1.0
OLDEST_DRIVER = 580  # NVIDIA's, for CUDA 13, with which the locked torch is built

OK, NOTE, MISSING = "ok", "note", "MISSING"


class Finding(NamedTuple):
    """One line: its state, what was looked at, what was found, and what to do ("" for nothing)."""

    state: str
    what: str
    found: str
    advice: str = ""


def system_problem() -> str:
    """Return why the workflow cannot run on this operating system; "" if it can."""
    if os.name == "posix":
        return ""
    return (
        f"the workflow needs Linux or macOS, not {platform.system()}: it uses their signals and file locks; on "
        "Windows, install WSL 2 (wsl --install) and work in a clone inside it"
    )


def examine(project: Path, environment: Path) -> list[Finding]:
    """Return the findings about this machine.

    Args:
        project: folder of the clone.
        environment: its virtual environment, which need not exist yet.
    """
    return [
        _system(),
        _python(),
        _venv(),
        _program("git", ["git"], "install it: settings, code and results are recorded with it", MISSING),
        _program("make", ["make"], "install it, or run the commands of the Makefile by hand"),
        _disk(project, environment),
        _processor(),
        _environment(environment),
        _gpu(),
        _program("browser", ["chromium", "google-chrome"], "only for tests of report.html in a browser"),
        _program("chromedriver", ["chromedriver"], "only for tests of report.html in a browser"),
        _program("LaTeX", ["pdflatex"], "only for the test that compiles results.tex"),
        _program("Slurm", ["sbatch"], "only to run on a Slurm cluster"),
    ]


def main(project: Path = Path(), environment: Path = Path(".venv")) -> int:
    """Print the findings; return 1 if something required is missing, else 0."""
    findings = examine(project, environment)
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        advice = f"; {finding.advice}" if finding.advice else ""
        print(f"{finding.state:8} {finding.what:{width}}  {finding.found}{advice}")
    missing = [finding.what for finding in findings if finding.state == MISSING]
    print(f"\nmissing: {', '.join(missing)}" if missing else "\nnothing required is missing")
    return 1 if missing else 0


def _system() -> Finding:
    name = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if system_problem():
        return Finding(MISSING, "system", name, system_problem())
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Finding(NOTE, "system", name, "tested on Linux, x86_64, only")
    return Finding(OK, "system", name)


def _python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info >= OLDEST_PYTHON:
        return Finding(OK, "Python", found)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Finding(MISSING, "Python", found, f"install {oldest} or newer, then: make run PYTHON=python{oldest}")


def _venv() -> Finding:
    try:
        import ensurepip
        import venv  # noqa: F401
    except ImportError as error:
        return Finding(MISSING, "venv", f"no module {error.name}", "Debian, Ubuntu: apt-get install python3-venv")
    return Finding(OK, "venv", f"with pip {ensurepip.version()}")


def _program(what: str, names: list[str], advice: str, otherwise: str = NOTE) -> Finding:
    found = [path for path in map(shutil.which, names) if path]
    return Finding(OK, what, found[0]) if found else Finding(otherwise, what, "not found", advice)


def _disk(project: Path, environment: Path) -> Finding:
    free = shutil.disk_usage(project).free / 1e9
    needed = RUN_GB if _is_installed(environment) else RUN_GB + INSTALLATION_GB
    if free < needed:
        advice = f"{needed:.1f} GB are needed: free some, or make run TORCH=cpu, which needs 5.6 GB less"
        return Finding(MISSING, "disk", f"{free:.1f} GB free", advice)
    return Finding(OK, "disk", f"{free:.0f} GB free")


def _processor() -> Finding:
    return Finding(OK, "processor", f"{os.cpu_count()} cores, {_memory_gb():.0f} GB of memory")


def _memory_gb() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9 if os.name == "posix" else float("nan")


def _is_installed(environment: Path) -> bool:
    return any(environment.glob("lib/python*/site-packages/torch"))


def _environment(environment: Path) -> Finding:
    if not _is_installed(environment):
        return Finding(NOTE, "environment", f"none in {environment}", "make run installs it")
    code = "import json, torch; print(json.dumps([torch.__version__, torch.cuda.is_available()]))"
    printed = _output([str(environment / "bin" / "python"), "-c", code])
    if printed is None:
        advice = "delete the folder and call make run again"
        return Finding(MISSING, "environment", f"{environment}: torch cannot be imported", advice)
    version, sees_gpu = json.loads(printed)
    return Finding(OK, "environment", f"torch {version}, which sees {'a' if sees_gpu else 'no'} GPU")


def _gpu() -> Finding:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    printed = _output(query)
    if not printed:
        return Finding(NOTE, "GPU", "no NVIDIA GPU found", "the default run needs none; the full-size suites do")
    gpus = [[part.strip() for part in line.split(",")] for line in printed.splitlines()]
    driver = gpus[0][-1]
    found = f"{', '.join(f'{name} ({memory})' for name, memory, _ in gpus)}; driver {driver}"
    if int(driver.partition(".")[0]) < OLDEST_DRIVER:
        return Finding(NOTE, "GPU", found, f"torch needs driver {OLDEST_DRIVER} or newer to use it: update the driver")
    return Finding(OK, "GPU", found)


def _output(command: list[str]) -> str | None:
    """Return what a command prints; None if there is no such command or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
