"""Where the time of `make run` goes once everything is installed: the default suite in a new copy of the project.

Run from the root of the repository, with nothing else at work on the machine: python -m benchmarks.default_run
"""

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import load_average, table, write_section

ROOT = Path(__file__).parents[1]
STAGES = ("prepare", "train", "evaluate")
RUNS = ("the first run, which compiles the loops", "the same from nothing again, with compiled loops")
USED = re.compile(r"\(([\d.]+) s of CPU time, ")


@dataclass(frozen=True)
class Run:
    """What a run of the default suite took.

    Attributes:
        wall: seconds from start to end.
        total: processor seconds of all its processes.
        jobs: processor seconds of each job, by stage.
    """

    wall: float
    total: float
    jobs: dict[str, list[float]]

    def rows(self, name: str) -> list[list[str]]:
        """Return the rows of a table."""
        of_stages = {stage: sum(seconds) for stage, seconds in self.jobs.items()}
        rest = {"report, Snakemake, imports": self.total - sum(of_stages.values()), "in all": self.total}
        counts = {stage: str(len(seconds)) for stage, seconds in self.jobs.items()}
        return [
            [name, part, counts.get(part, ""), f"{seconds:.0f}", f"{seconds / self.total:.0%}"]
            for part, seconds in {**of_stages, **rest}.items()
        ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        subprocess.run(["git", "clone", "-q", ROOT, copy], check=True)
        runs = {name: run(copy) for name in RUNS}
    rows = [row for name, measured in runs.items() for row in measured.rows(name)]
    walls = "; ".join(f"{name}: {measured.wall:.0f} s" for name, measured in runs.items())
    write_section(
        "default_run",
        "Where the time of the default run goes",
        [
            "The default suite of the last commit (`make run` without the installation) in a new clone, from nothing "
            f"to the table. Wall-clock time: {walls}. CPU time by stage, as the jobs' logs say; the rest is that of "
            "the report, of Snakemake and of the process that imports the libraries for all jobs:",
            table(["run", "part", "jobs", "CPU seconds", "share"], rows),
            load_average(own=os.cpu_count() or 1),
        ],
        packages=["snakemake"],
    )


def run(project: Path) -> Run:
    """Run the default suite of a project from nothing."""
    for made in ("results", "cache", "data/prepared", "logs", ".snakemake"):
        shutil.rmtree(project / made, ignore_errors=True)
    began, before = time.monotonic(), _children_seconds()
    environment = {**os.environ, "PYTHONPATH": str(project / "src")}
    subprocess.run([sys.executable, "-m", "snakemake", "--cores", "all"], cwd=project, env=environment, check=True)
    return Run(
        time.monotonic() - began,
        _children_seconds() - before,
        {stage: [seconds_of(log) for log in (project / "logs" / stage).glob("*.log")] for stage in STAGES},
    )


def seconds_of(log: Path) -> float:
    """Return the processor seconds that a job's log states."""
    return float(USED.findall(log.read_text(encoding="utf-8"))[-1])


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
