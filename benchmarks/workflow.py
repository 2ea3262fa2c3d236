"""How the workflow's overhead grows with the size of the suite.

    python -m benchmarks.workflow [experiments ...]        (default: 100 300 1000)

In a suite of the given size, all results exist as placeholders of a few bytes: nothing is trained, but the tools see as
many files as in a real project. Each command runs three times; the wall-clock and CPU time of the fastest run are
shown. The output of each command is checked to say that everything is up to date.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import load_average, table, write_section

ROOT = Path(__file__).parents[1]
COPIED = (
    "Snakefile",
    "workflow",
    "experiments",
    "profiles",
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
    "src/fewshot",
)
COMMANDS = {
    "fewshot list": "up to date",
    "snakemake -n": "Nothing to be done",
    "dvc status": "Data and pipelines are up to date",
}
ROUNDS = 3
PARAMS = """\
suite: large
suites:
  large:
    - {{dataset: glyphs, backbone: conv4, learner: [prototype, ridge], recipe: quick, seed: {seeds}}}
recipes:
  quick: {{epochs: 1}}
"""
FAKE = """
from fewshot.workflow.plan import load_plan
from fewshot.workflow.tables_state import stamp_file
import hashlib, json
plan = load_plan()
for stage in ("prepare", "train", "evaluate"):
    for job in plan.jobs(stage):
        for path in job.outputs.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(job.key)
tables = plan.tables_dir
tables.mkdir(parents=True)
for name in ("results.csv", "results.md", "metrics.json", "results.txt"):
    (tables / name).write_text("{}")
(tables / "curves").mkdir()
files = {"metrics.json": hashlib.sha256(b"{}").hexdigest()}
(tables / "manifest.json").write_text(json.dumps({"key": plan.report_key, "files": files}))
stamp_file(plan).touch()
"""


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        "DVC_NO_ANALYTICS": "1",
    }


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}")
    return done.stdout


def make_project(folder: Path, experiments: int) -> None:
    """Write a project in which all results of the suite exist and are recorded."""
    for name in COPIED:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, target)
    (folder / "params.yaml").write_text(PARAMS.format(seeds=list(range(experiments // 2))), encoding="utf-8")
    run(folder, "git", "init", "-q")
    run(folder, sys.executable, "-c", FAKE)
    run(folder, "dvc", "commit", "-q", "-f")


def seconds(folder: Path, command: str, expected: str) -> tuple[float, float]:
    """Return wall-clock and processor seconds of a command, the fastest of some rounds."""
    found = []
    for _ in range(ROUNDS):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        text = run(folder, *command.split())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if expected not in text:
            raise SystemExit(f"{command} did not say {expected!r}:\n{text}")
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((time.monotonic() - began, processor))
    return min(wall for wall, _ in found), min(processor for _, processor in found)


def measure(sizes: list[int]) -> list[list[str]]:
    lines = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_project(folder, size)
            rows = len(json.loads(run(folder, "fewshot", "list", "--json")))
            assert rows == size, (rows, size)
            for command, expected in COMMANDS.items():
                wall, processor = seconds(folder, command, expected)
                lines.append([command, str(size), f"{wall:.1f}", f"{processor:.1f}"])
                print(*lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiments", type=int, nargs="*", default=[100, 300, 1000])
    sizes = parser.parse_args().experiments
    lines = sorted(measure(sizes), key=lambda line: list(COMMANDS).index(line[0]))
    write_section(
        "workflow",
        "Workflow overhead by suite size",
        [
            __doc__.split("\n\n", 2)[2].strip(),
            table(["command", "experiments", "seconds", "CPU seconds"], lines),
            load_average(),
        ],
        ("snakemake", "dvc"),
    )


if __name__ == "__main__":
    main()
