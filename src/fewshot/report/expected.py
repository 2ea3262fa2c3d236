"""Write `expected.yaml` and `expected.npz`, what this project expects of its own default suite, from a run with seeds.

    fewshot expected --suite quickstart_seeds --title "glyphs, seeds 1 to 8"

`expected.yaml` has `source` (title, version, address), `numbers`, each with the fields of `published.Published`, and
`differences` between them (`expected_differences.ExpectedDifference`). A later run is matched with its expected number
as with a published one, and its settings must be equal (`settings_hash`). `expected.npz` has the accuracies per
episode: a run on the same frozen episodes is compared episode by episode. Several seeds give the deviation between runs
(`run_sd_pct`), which one run cannot estimate.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fewshot.errors import DataError
from fewshot.files import write_atomic, write_npz
from fewshot.report import stats
from fewshot.report.contents import read_suite_runs
from fewshot.report.expected_differences import ExpectedDifference
from fewshot.report.expected_episodes import array_name, correct_predictions
from fewshot.report.inputs import SuiteReport
from fewshot.report.measure import Row, group_rows
from fewshot.report.published import EXPECTED_FILE, episodes_file

MIN_SEEDS = 2
# Two trainings are compared only where their difference varies far less than either row. With eight seeds, 7 of 10,000
# pairs of independent rows seem to, so this choice hardly biases the deviation; with fewer seeds it would.
LARGEST_RATIO = 0.5
SEEDS_TO_CHOOSE = 8
_HEAD = "# What this project expects of its own runs. Written by `fewshot expected`; do not edit.\n"


def write_expected_of(suite: SuiteReport, source: Mapping[str, str], out: Path = EXPECTED_FILE) -> list[Path]:
    """Write the expected numbers of a finished suite whose trainings have several seeds; return the files.

    Raises:
        DataError: if a result is missing, or a learner was trained with a single seed.
    """
    rows = group_rows(read_suite_runs(suite))
    single = sorted({row.entry.group for row in rows if len(row.runs) < MIN_SEEDS})
    if single:
        raise DataError(
            f"suite {suite.suite}: {', '.join(single)}: one training seed; the deviation between runs needs "
            f"{MIN_SEEDS} or more (8 are recommended): give the blocks of the suite a list, such as seed: [1, 2, 3]"
        )
    return write_expected(rows, source, out)


def write_expected(rows: Sequence[Row], source: Mapping[str, str], out: Path) -> list[Path]:
    """Write the expected numbers of rows, and the differences between them; return the files.

    Args:
        rows: one per number, each with several seeds.
        source: title, version and address of the run.
        out: the .yaml file; the .npz file is written next to it.
    """
    numbers = [expected_number(row) for row in rows]
    differences = [difference.model_dump() for difference in measured_differences(rows)]
    content = {"source": dict(source), "numbers": numbers, "differences": differences}
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_npz(episodes_file(out), {array_name(row): correct_predictions(row) for row in rows})
    write_atomic(out, (_HEAD + body).encode())
    return [out, episodes_file(out)]


def expected_number(row: Row) -> dict[str, Any]:
    """Return one number of `expected.yaml`."""
    entry, train, seeds = row.entry, row.protocol["train"], len(row.runs)
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
        "run_sd_pct": round(100 * _run_sd(row.accuracies), 4),
        "settings_hash": row.settings_hash,
        "episodes": {
            "array": array_name(row),
            "predictions": seeds * row.protocol["n_way"] * row.protocol["n_query"],
            "episodes_hash": row.runs[0].episodes_hash,
        },
        "protocol": {
            "n_way": row.protocol["n_way"],
            "selection": row.selection,
            "batch_norm": row.protocol["batch_norm"],
            "train_split": row.recipe["train_split"],
            "episodes": row.accuracies.shape[1],
            "interval": "seeds",
        },
    }


def measured_differences(rows: Sequence[Row]) -> list[ExpectedDifference]:
    """Return the differences of rows with several seeds that are worth judging, in the order of the rows.

    These are the pairs of one training, which differ only in the test, and any others with the same eight or more seeds
    and episodes whose difference varies at most half as much as either row.
    """
    return [
        expected_difference(a, b)
        for a, b in combinations(rows, 2)
        if a.is_paired_with(b) and (a.protocol["train"] == b.protocol["train"] or _deviate_together(a, b))
    ]


def _deviate_together(a: Row, b: Row) -> bool:
    if len(a.runs) < SEEDS_TO_CHOOSE:
        return False
    together, *alone = (_run_sd(accuracies) for accuracies in (a.accuracies - b.accuracies, a.accuracies, b.accuracies))
    return together <= LARGEST_RATIO * min(alone)


def expected_difference(a: Row, b: Row) -> ExpectedDifference:
    """Return what is expected of a - b, two rows with the same seeds and episodes."""
    differences = a.accuracies - b.accuracies
    return ExpectedDifference(
        a=array_name(a),
        b=array_name(b),
        difference_pct=round(100 * float(differences.mean()), 2),
        run_sd_pct=round(100 * _run_sd(differences), 4),
        seeds=len(a.runs),
    )


def _run_sd(accuracies: np.ndarray) -> float:
    """Return the standard deviation between training runs on the same episodes, from (S, E), S > 1."""
    deviation = stats.deviation_of_seed_means(accuracies)
    assert deviation is not None  # `write_expected_of` refuses single seeds
    return deviation.std_error
