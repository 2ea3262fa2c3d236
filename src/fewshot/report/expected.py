"""Write `expected.yaml`, the numbers this project expects of its own default suite, from the results.csv of a run.

    python -m fewshot.report.expected results/tables/quickstart/results.csv --title "glyphs, 3 seeds" --version 0.1.0

The file has `source` (title, version, address) and `numbers`, each with the fields of `published.Published`. A later
run is matched with its expected number as with a published one, and compared by the same rule; its settings must be
equal (`settings_hash`). Several seeds give the deviation between runs (`run_sd_pct`), which one run cannot estimate.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fewshot.files import read_csv
from fewshot.report.published import EXPECTED_FILE


def expected_number(record: Mapping[str, str]) -> dict[str, Any]:
    """Return one number of `expected.yaml` from a row of results.csv."""
    return {
        "table": f"{record['experiment']}, {record['seeds']} seeds",
        "method": record["experiment"],
        "printed_backbone": record["backbone"],
        "backbone": {"name": record["backbone_name"]},
        "learner": {"name": record["learner_name"]},
        "dataset": record["train_dataset"],
        "target": record["target"],
        "shot": int(record["shot"]),
        "accuracy_pct": round(float(record["accuracy_pct"]), 2),
        "ci95_pct": round(float(record["ci95_pct"]), 2),
        "seeds": int(record["seeds"]),
        "run_sd_pct": float(record["run_sd_pct"]) if record["run_sd_pct"] else None,
        "settings_hash": record["settings_hash"],
        "protocol": {
            "n_way": int(record["way"]),
            "selection": record["selection"],
            "batch_norm": record["batch_norm"],
            "train_split": record["train_split"],
            "episodes": int(record["episodes"]),
            "interval": "seeds" if int(record["seeds"]) > 1 else "episodes",
        },
    }


def write_expected(results: Path, source: Mapping[str, str], out: Path = EXPECTED_FILE) -> None:
    """Write the file.

    Args:
        results: results.csv of a report.
        source: title, version and address of the run.
        out: file to write.
    """
    numbers = [expected_number(record) for record in read_csv(results)]
    head = "# What this project expects of its own runs. Written by `python -m fewshot.report.expected`; do not edit.\n"
    body = yaml.safe_dump({"source": dict(source), "numbers": numbers}, sort_keys=False, allow_unicode=True)
    out.write_text(head + body, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Write expected.yaml from a results.csv.")
    parser.add_argument("results", type=Path, help="results.csv of a report")
    parser.add_argument("--title", required=True, help="description of the run")
    parser.add_argument("--version", required=True, help="version or commit of the project")
    parser.add_argument("--address", default="", help="where its evidence is published")
    parser.add_argument("--out", type=Path, default=EXPECTED_FILE, help="file to write")
    options = parser.parse_args(arguments)
    if not options.results.is_file():
        parser.error(f"{options.results}: no such file; make the tables first, with several seeds")
    source = {"title": options.title, "version": options.version, "address": options.address}
    write_expected(options.results, source, options.out)


if __name__ == "__main__":
    main()
