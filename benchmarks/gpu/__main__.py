"""Checks this project on a GPU and times it there, in one call of a few minutes, without data set or network.

    PYTHONPATH=src python -m benchmarks.gpu                          # everything, about six minutes
    PYTHONPATH=src python -m benchmarks.gpu --parts agreement        # only some parts
    PYTHONPATH=src python -m benchmarks.gpu --tiny --device cpu      # seconds, on any machine
    PYTHONPATH=src python -m benchmarks.gpu --page gpu.json          # write docs/benchmarks/gpu.md from a result

Run from the root of the repository. The exit code is 1 if a check failed.
"""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts, as in jobs of the project

import torch
from benchmarks.gpu import agreement, card, determinism, original, timing
from benchmarks.gpu.families import Scale
from benchmarks.gpu.findings import read_json, run_cases, write_json
from benchmarks.gpu.tables import about_device, markdown, write_page

from fewshot.experiments.precision import reproducible_arithmetic
from fewshot.training.devices import limit_threads

# Each part may use the time up to this share of all minutes, so that none of them takes that of the others.
PARTS = {
    "card": (card.cases, 0.1),
    "agreement": (agreement.cases, 0.35),
    "determinism": (determinism.cases, 0.45),
    "timing": (timing.cases, 0.85),
    "original": (original.cases, 1.0),
}


def main() -> None:
    options = parse_options()
    if options.page:
        write_page(*read_json(options.page))
        return
    began = time.monotonic()
    scale = Scale(torch.device(options.device), options.tiny)
    warnings.filterwarnings("ignore")
    limit_threads(1 if options.tiny else min(8, os.cpu_count() or 1))
    about = about_device(scale)
    print(" ".join(f"{name} {value};" for name, value in about.items()), flush=True)
    findings = []
    for part in options.parts:
        cases, share = PARTS[part]
        reproducible_arithmetic()
        chosen = [case for case in cases(scale) if options.only in case.name]
        findings += run_cases(chosen, began, began + 60 * options.minutes * share)
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / "gpu.json", about, findings)  # after each part, in case the machine is taken away
    (options.out / "gpu.md").write_text(markdown(about, findings), encoding="utf-8")
    print(f"wrote {options.out / 'gpu.md'} and gpu.json")
    failed = [found for found in findings if found.passed is False]
    print(f"{len(failed)} failed{''.join(f'; {found.case}' for found in failed)}")
    sys.exit(1 if failed else 0)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--device", default="cuda:0" if torch.cuda.is_available() else "cpu", help="default: %(default)s"
    )
    parser.add_argument("--parts", type=parts, default=tuple(PARTS), help=f"of {','.join(PARTS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=5.5, help="no case starts later (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases with this text in their name")
    parser.add_argument("--tiny", action="store_true", help="tiny images and networks of few steps")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-benchmark"), metavar="FOLDER", help="gets gpu.json and gpu.md"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the documentation's page from a gpu.json")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU; use --device cpu --tiny to try the program")
    return options


def parts(text: str) -> tuple[str, ...]:
    """Return the parts named in a comma-separated list."""
    chosen = tuple(part.strip() for part in text.split(","))
    if unknown := sorted(set(chosen) - PARTS.keys()):
        raise argparse.ArgumentTypeError(f"unknown part {', '.join(unknown)}; allowed: {', '.join(PARTS)}")
    return chosen


if __name__ == "__main__":
    main()
