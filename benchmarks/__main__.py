"""Run every benchmark, one process each: `python -m benchmarks`, or `python -m benchmarks heads augmentation`."""

import subprocess
import sys
from pathlib import Path

PARTS = ("__init__", "__main__", "headlines", "measure", "originals")
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in PARTS)


def main() -> None:
    wanted = sys.argv[1:] or NAMES
    unknown = sorted(set(wanted) - set(NAMES))
    if unknown:
        sys.exit(f"unknown benchmark {', '.join(unknown)}; allowed: {', '.join(NAMES)}")
    for name in wanted:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
    subprocess.run([sys.executable, "-m", "benchmarks.headlines"], check=True)


if __name__ == "__main__":
    main()
