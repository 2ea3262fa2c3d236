"""Write `expected.yaml` and `expected.npz`, what this project expects of its own default suite, from a run with seeds.

    fewshot expected --suite quickstart_seeds --title "glyphs, seeds 1 to 8"

`expected.yaml` has `source` (title, version, address) and `numbers`, each with the fields of `published.Published`. A
later run is matched with its expected number as with a published one, and its settings must be equal (`settings_hash`).
`expected.npz` has the accuracies per episode: a run on the same frozen episodes is compared episode by episode. Several
seeds give the deviation between runs (`run_sd_pct`), which one run cannot estimate.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fewshot.errors import DataError
from fewshot.files import write_atomic, write_npz
from fewshot.report import stats
from fewshot.report.contents import read_contents
from fewshot.report.expected_episodes import correct_predictions
from fewshot.report.inputs import SuiteReport
from fewshot.report.measure import Row
from fewshot.report.published import EXPECTED_FILE, episodes_file

MIN_SEEDS = 2
_HEAD = "# What this project expects of its own runs. Written by `fewshot expected`; do not edit.\n"


def write_expected_of(suite: SuiteReport, source: Mapping[str, str], out: Path = EXPECTED_FILE) -> list[Path]:
    """Write the expected numbers of a finished suite whose trainings have several seeds; return the files.

    Raises:
        DataError: if a result is missing, or a learner was trained with a single seed.
    """
    rows = [cell.row for cell in read_contents(suite).cells]
    single = sorted({row.entry.group for row in rows if len(row.runs) < MIN_SEEDS})
    if single:
        raise DataError(
            f"suite {suite.suite}: {', '.join(single)}: one training seed; the deviation between runs needs "
            f"{MIN_SEEDS} or more (8 are recommended): give the blocks of the suite a list, such as seed: [1, 2, 3]"
        )
    return write_expected(rows, source, out)


def write_expected(rows: Sequence[Row], source: Mapping[str, str], out: Path) -> list[Path]:
    """Write the expected numbers of rows; return the files.

    Args:
        rows: one per number.
        source: title, version and address of the run.
        out: the .yaml file; the .npz file is written next to it.
    """
    numbers = [expected_number(row) for row in rows]
    body = yaml.safe_dump({"source": dict(source), "numbers": numbers}, sort_keys=False, allow_unicode=True)
    write_npz(episodes_file(out), {_array_name(row): correct_predictions(row) for row in rows})
    write_atomic(out, (_HEAD + body).encode())
    return [out, episodes_file(out)]


def expected_number(row: Row) -> dict[str, Any]:
    """Return one number of `expected.yaml`."""
    entry, train, seeds = row.entry, row.protocol["train"], len(row.runs)
    deviation = stats.run_deviation(row.accuracies)
    return {
        "table": f"{entry.group}, {seeds} seeds",
        "method": entry.group,
        "printed_backbone": entry.backbone,
        "backbone": {"name": train["backbone"]["name"]},
        "learner": {"name": row.tested_learner["name"]},
        "dataset": entry.dataset,
        "target": entry.target,
        "shot": row.shot,
        "accuracy_pct": round(100 * row.estimate.mean, 2),
        "ci95_pct": round(100 * row.estimate.ci95, 2),
        "seeds": seeds,
        "run_sd_pct": None if deviation is None else round(100 * deviation.std_error, 4),
        "settings_hash": row.settings_hash,
        "episodes": {
            "array": _array_name(row),
            "predictions": seeds * row.protocol["n_way"] * row.protocol["n_query"],
            "episodes_hash": row.runs[0].episodes_hash,
        },
        "protocol": {
            "n_way": row.protocol["n_way"],
            "selection": row.selection,
            "batch_norm": row.protocol["batch_norm"],
            "train_split": row.recipe["train_split"],
            "episodes": row.accuracies.shape[1],
            "interval": "seeds" if seeds > 1 else "episodes",
        },
    }


def _array_name(row: Row) -> str:
    return f"{row.entry.group}/{row.entry.target}/{row.selection}/{row.shot}shot"
