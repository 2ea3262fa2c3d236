"""Ways to train ResNet-12 as a classifier on two cores: a thread each, or a process each, of one training or of two.

Run from the root of the repository, with nothing else at work on the machine: python -m benchmarks.two_cores
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from benchmarks.measure import load_average, ratio, table, write_section

ROOT = Path(__file__).parents[1]
BATCH = 64
ROUNDS = 2
SHORT, LONG = 10, 60
"""Outer steps of two trainings whose difference leaves out start, compilation and end."""


@dataclass(frozen=True)
class Way:
    """A way to use the machine.

    Attributes:
        name: for the table.
        trainings: number of trainings at the same time.
        threads: of each process.
        devices: processes of each training.
    """

    name: str
    trainings: int = 1
    threads: int = 1
    devices: int = 1


WAYS = [
    Way("one training, one thread"),
    Way("one training, two threads", threads=2),
    Way("one training, `devices: 2`, a thread each", devices=2),
    Way("two trainings, a thread each", trainings=2),
]


def main() -> None:
    rounds = [{way: seconds_per_image(way) for way in WAYS} for _ in range(ROUNDS)]
    seconds = {way: [measured[way] for measured in rounds] for way in WAYS}
    rows = [
        [way.name, f"{1 / statistics.median(seconds[way]):.0f}", ratio(seconds[WAYS[0]], seconds[way])] for way in WAYS
    ]
    write_section(
        "two_cores",
        "Two cores for one ResNet-12",
        [
            f"Classifier of the built-in data set's training classes at 32 pixels, minibatches of {BATCH} images, "
            "bfloat16, augmentation included: images per second of wall-clock time of all trainings together, from "
            f"trainings of {SHORT} and {LONG} steps. Medians of {ROUNDS} rounds of all ways; "
            "the ratios are taken within a round, in brackets the lowest and the highest.",
            table(["way", "images per second", "times as fast as one thread"], rows),
            load_average(own=2),
        ],
        used="one or two threads",
    )


def seconds_per_image(way: Way) -> float:
    """Return the wall-clock seconds between two images seen by the trainings of a way together."""
    seconds = {steps: run(way, steps) for steps in (SHORT, LONG)}
    return (seconds[LONG] - seconds[SHORT]) / (way.trainings * BATCH * (LONG - SHORT))


def run(way: Way, steps: int) -> float:
    """Return the seconds that trainings of so many steps take, started together in a new project."""
    names = [f"glyphs-resnet12-classifier-bench-s{seed}" for seed in range(way.trainings)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_text(yaml.safe_dump(params(way, steps)))
        finish(way, [fewshot(folder, "prepare", "glyphs")])
        began = time.monotonic()
        finish(way, [fewshot(folder, "train", name) for name in names])
        return time.monotonic() - began


def finish(way: Way, commands: list[subprocess.Popen[bytes]]) -> None:
    """Wait for commands; stop the benchmark if one failed."""
    codes = [command.wait() for command in commands]
    if any(codes):
        raise SystemExit(f"{way.name}: a command failed; its message is above")


def params(way: Way, steps: int) -> dict[str, Any]:
    """Return the settings of the trainings of a way."""
    recipe = {
        "batch_size": BATCH,
        "epochs": 1,
        "steps_per_epoch": steps,
        "devices": way.devices,
        "learning_rate": 0.1,
        "schedule": "one_cycle",
        "precision": "bfloat16",
        "augmentation": {"crop_padding": 4, "flip": True},
        "validation": {"episodes": 0},
    }
    seeds = list(range(way.trainings))
    return {
        "suite": "bench",
        "suites": {"bench": [
            {"dataset": "glyphs", "backbone": "resnet12", "learner": "classifier", "recipe": "bench", "seed": seeds}
        ]},
        "recipes": {"bench": recipe},
        "backbones": {"resnet12": {"pooling": "mean", "dropblock": "off"}},
        "train": {"device": "cpu", "threads": way.threads},
    }  # fmt: skip


def fewshot(folder: str, *command: str) -> subprocess.Popen[bytes]:
    """Start a command of the project in a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen([sys.executable, "-m", "fewshot", *command], cwd=folder, env=environment)


if __name__ == "__main__":
    main()
