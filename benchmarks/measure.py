"""How the benchmarks measure: methods take turns in one process, on one thread; their processor times are compared.

Processor time is little affected by other jobs on the machine; compare ratios within one run.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from fewshot.training.allocator import keep_freed_memory

SECTIONS = Path(__file__).parents[1] / "docs" / "benchmarks"


def take_turns(methods: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median processor time of each method, seconds, over rounds of one call each (after one to warm up)."""
    torch.set_num_threads(1)
    keep_freed_memory()  # for all of them
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for round_ in range(rounds + 1):
        for name, method in methods.items():
            start = time.process_time()
            method()
            if round_ > 0:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def interleave(
    methods: Mapping[str, Callable[[], object]], rounds: int, repeats: Mapping[str, int]
) -> dict[str, list[float]]:
    """Return the processor times of each method, seconds, one per round: for quick methods the median of several calls.

    Methods that are repeated within a round are first called once to warm up; the others are assumed to be slow.
    """
    torch.set_num_threads(1)
    keep_freed_memory()  # for all of them
    for name in repeats:
        methods[name]()
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            calls = []
            for _ in range(repeats.get(name, 1)):
                start = time.process_time()
                method()
                calls.append(time.process_time() - start)
            seconds[name].append(statistics.median(calls))
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """Return how many times faster the second is, round by round: median and range."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    middle = f"{statistics.median(ratios):.3g}"
    return middle if len(ratios) == 1 else f"{middle} [{min(ratios):.3g}..{max(ratios):.3g}]"


def peak_memory_mib(function: Callable[[], object]) -> float:
    """Return the peak resident memory of this process during a call, above that before it, MiB (Linux only)."""

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    function()
    return (status("VmHWM") - before) / 1024


def machine(*packages: str, used: str = "one thread") -> str:
    """Return the processor, what was used of it, and the relevant versions, in one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = {
            line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in info.read_text().splitlines()
        }
        family, number = names.get("cpu family"), names.get("model")
        model = f"{names.get('model name', model)} (family {family}, model {number})" if family else model
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *packages))
    return f"{model}, {os.cpu_count()} cores visible, {used} used; Python {platform.python_version()}, {versions}."


def load_average(own: int = 1) -> str:
    """Return a sentence about what else was at work on the machine.

    Args:
        own: processes of the benchmark.
    """
    loads = " / ".join(f"{load:.1f}" for load in os.getloadavg())
    return f"Load average of the machine over 1 / 5 / 15 minutes at the end: {loads} (this program accounts for {own})."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_section(
    topic: str, title: str, paragraphs: Sequence[str], packages: Sequence[str] = (), used: str = "one thread"
) -> None:
    """Print a section of the benchmark report and write it to docs/benchmarks/<topic>.md."""
    command = f"Made by `python -m benchmarks.{topic}` on {machine(*packages, used=used)}"
    text = "\n\n".join([f"# {title}", *paragraphs, command]) + "\n"
    print(text)
    SECTIONS.mkdir(parents=True, exist_ok=True)
    (SECTIONS / f"{topic}.md").write_text(text)
