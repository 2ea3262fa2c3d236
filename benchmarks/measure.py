"""How the benchmarks measure: rivals take turns in one process, on one thread, and their processor time is compared.

Processor time of the process is robust against other jobs on the machine; ratios within one run are what counts.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

SECTIONS = Path(__file__).parents[1] / "docs" / "benchmarks"


def take_turns(rivals: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median processor time of each rival, seconds, over rounds of one call each (after one to warm up)."""
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for round_ in range(rounds + 1):
        for name, rival in rivals.items():
            start = time.process_time()
            rival()
            if round_ > 0:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine(*packages: str) -> str:
    """Describe the machine and the versions that matter, in one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = {
            line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in info.read_text().splitlines()
        }
        family, number = names.get("cpu family"), names.get("model")
        model = f"{names.get('model name', model)} (family {family}, model {number})" if family else model
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *packages))
    return f"{model}, {os.cpu_count()} cores seen, one thread used; Python {platform.python_version()}, {versions}."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_section(topic: str, title: str, paragraphs: Sequence[str], packages: Sequence[str] = ()) -> None:
    """Print a section of the benchmark report and write it to docs/benchmarks/<topic>.md."""
    command = f"Made by `python -m benchmarks.{topic}` on {machine(*packages)}"
    text = "\n\n".join([f"# {title}", *paragraphs, command]) + "\n"
    print(text)
    SECTIONS.mkdir(parents=True, exist_ok=True)
    (SECTIONS / f"{topic}.md").write_text(text)
