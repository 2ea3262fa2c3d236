"""How often a verdict on expected numbers and differences is wrong, on simulated suites that replicate exactly."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot.experiments.params import Report
from fewshot.report.expected import expected_difference, expected_number
from fewshot.report.expected_differences import ExpectedDifference
from fewshot.report.expected_episodes import array_name
from fewshot.report.inputs import ReportEntry
from fewshot.report.measure import Row, Run
from fewshot.report.published import Published
from fewshot.report.verdict import Judgement, judge_suite

EPISODES, EXPECTED_SEEDS = 200, 8
EPISODE_SD, RUN_EPISODE_SD, HEAD_EPISODE_SD = 0.06, 0.04, 0.02  # of all runs; of one run; of a head on its embedding
RECIPE = {"train_split": "train"}
TRAIN: dict[str, Any] = {"backbone": {"name": "conv4"}, "learner": {"name": "ridge"}, "recipe": RECIPE}
PROTOCOL: dict[str, Any] = {"train": TRAIN, "n_way": 5, "n_query": 15, "split": "test", "batch_norm": "running"}
NOWHERE = [Path()] * 4
ENTRY = ReportEntry("", "", "", "", "glyphs", "glyphs", "conv4", "ridge", 0, *NOWHERE, log=None, command="")
SOURCE = {"title": "", "version": "", "address": ""}
DIFFERENT = {"higher", "lower"}

Suite = tuple[list[Row], list[Published], list[ExpectedDifference]]


@dataclass(frozen=True)
class Deviations:
    """Standard deviations between training runs, 0..1: of the accuracy, and of the difference between two heads."""

    run: float
    difference: float


def rows_of(group: str, shot: int, accuracies: np.ndarray, changes: dict[str, Any], first_seed: int) -> Row:
    """Return the row of S trainings, (S, E)."""
    runs = [
        Run(replace(ENTRY, group=group, seed=first_seed + seed), {**PROTOCOL, "changes": changes}, shot, "single",
            accuracy, 0, None, "hash")
        for seed, accuracy in enumerate(accuracies)
    ]  # fmt: skip
    return Row(tuple(runs))


class Simulation:
    """Suites of `cells` trainings, each tested with two heads; `shot` names the cell."""

    def __init__(self, cells: int, seeds: int, deviations: Deviations) -> None:
        self.cells, self.seeds, self.deviations = cells, seeds, deviations
        entropy = [cells, seeds, round(1e5 * deviations.run), round(1e5 * deviations.difference)]
        self.rng = np.random.default_rng(entropy)
        self.arrays: dict[str, np.ndarray] = {}

    def pair(
        self, suite: int, shot: int, episodes: np.ndarray, seeds: int, first_seed: int, fault: float = 0.0
    ) -> tuple[Row, Row]:
        """Return the rows of ridge regression, to whose accuracy a fault is added, and of the SVM on its embedding."""
        normal, sd = self.rng.normal, self.deviations
        ridge = 0.6 + normal(0, sd.run, (seeds, 1)) + episodes + normal(0, RUN_EPISODE_SD, (seeds, EPISODES))
        svm = ridge + normal(0, sd.difference, (seeds, 1)) + normal(0, HEAD_EPISODE_SD, (seeds, EPISODES))
        return (
            rows_of(f"{suite}-ridge", shot, ridge + fault, {}, first_seed),
            rows_of(f"{suite}-svm", shot, svm, {"head": "svm"}, first_seed),
        )

    def suite(self, index: int, file: Path, fault: float) -> Suite:
        """Return the rows of a suite, and what is expected of them from other seeds on the same episodes."""
        rows, numbers, differences = [], [], []
        for shot in range(1, self.cells + 1):
            episodes = self.rng.normal(0, EPISODE_SD, EPISODES)
            earlier = self.pair(index, shot, episodes, EXPECTED_SEEDS, first_seed=1)
            rows += self.pair(index, shot, episodes, self.seeds, first_seed=20, fault=fault)
            numbers += [self.number(row, file) for row in earlier]
            differences.append(expected_difference(*earlier))
        return rows, numbers, differences

    def number(self, row: Row, file: Path) -> Published:
        """Return the expected number of a row; its accuracies per episode are kept for the file."""
        self.arrays[array_name(row)] = row.accuracies.mean(axis=0)
        number = expected_number(row)
        stored = {**number["episodes"], "predictions": 1, "file": str(file)}
        exact = {"accuracy_pct": 100 * row.estimate.mean, "episodes": stored, "source": SOURCE}
        return Published.model_validate({**number, **exact})

    def judge(self, suites: int, folder: Path, fault: float = 0.0) -> list[Judgement]:
        """Return the verdicts on each suite."""
        file = folder / "expected.npz"
        simulated = [self.suite(index, file, fault) for index in range(suites)]
        np.savez(file, **self.arrays)
        return [judge_suite(rows, numbers, Report(), differences) for rows, numbers, differences in simulated]


def words(verdicts: Sequence[Any]) -> set[str]:
    return {verdict.word for verdict in verdicts}


@pytest.mark.parametrize("deviations", [Deviations(0.003, 0.0005), Deviations(0.007, 0.0025), Deviations(0.01, 0.009)])
@pytest.mark.parametrize(("cells", "seeds", "suites"), [(1, 1, 400), (12, 1, 60), (1, 3, 400), (12, 3, 60)])
def test_at_most_5_percent_of_suites_call_an_exact_replication_different(
    cells: int, seeds: int, suites: int, deviations: Deviations, tmp_path: Path
) -> None:
    judged = Simulation(cells, seeds, deviations).judge(suites, tmp_path)
    assert all(len(suite.differences) == cells for suite in judged)
    wrong = np.mean([bool(DIFFERENT & words((*suite.rows, *suite.differences))) for suite in judged])
    assert wrong <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / suites)


@pytest.mark.slow
@pytest.mark.parametrize(("cells", "suites"), [(1, 6000), (12, 600)])
def test_the_largest_deviations_keep_the_5_percent(cells: int, suites: int, tmp_path: Path) -> None:
    """Measured more closely where the rate is largest: runs that deviate far more than episodes do."""
    judged = Simulation(cells, 1, Deviations(0.01, 0.009)).judge(suites, tmp_path)
    wrong = np.mean([bool(DIFFERENT & words((*suite.rows, *suite.differences))) for suite in judged])
    assert wrong <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / suites)


def test_a_fault_in_one_head_is_seen_in_the_difference_but_not_in_its_row(tmp_path: Path) -> None:
    simulation = Simulation(cells=1, seeds=1, deviations=Deviations(0.007, 0.001))
    judged = simulation.judge(100, tmp_path, fault=-0.015)
    assert np.mean(["lower" in words(suite.differences) for suite in judged]) > 0.9
    assert np.mean([bool(DIFFERENT & words(suite.rows)) for suite in judged]) < 0.3
