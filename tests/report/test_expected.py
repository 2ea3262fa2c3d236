"""Expected numbers: written from several seeds, compared episode by episode with a later run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot.errors import DataError
from fewshot.experiments.params import Report
from fewshot.report import stats
from fewshot.report.contents import read_contents
from fewshot.report.difference import difference
from fewshot.report.expected import write_expected_of
from fewshot.report.expected_episodes import correct_predictions, paired_accuracies
from fewshot.report.measure import Row, group_rows, read_runs
from fewshot.report.published import Published, read_expected_file
from fewshot.report.verdict import judge_suite

SOURCE = {"title": "glyphs evidence", "version": "1", "address": ""}
SEEDS = 8


def later_run(maker: Any, accuracy: float = 0.61, **changes: Any) -> Row:
    """Return the 1-shot row of a run with another seed."""
    return group_rows(read_runs(maker.add("ridge", accuracy, seed=20, **changes)))[0]


@pytest.fixture
def numbers(maker: Any, tmp_path: Path) -> tuple[Published, ...]:
    """The expected numbers of ridge, from eight seeds that vary by 0.2 points."""
    for seed in range(SEEDS):
        maker.add("ridge", 0.6 + 0.002 * (seed % 3), seed=seed)
    out = tmp_path / "expected.yaml"
    assert write_expected_of(maker.suite(), SOURCE, out) == [out, tmp_path / "expected.npz"]
    return read_expected_file(out)


def test_the_stored_predictions_are_those_of_all_seeds(maker: Any, numbers: tuple[Published, ...]) -> None:
    row = read_contents(maker.suite()).cells[0].row
    stored = paired_accuracies(row, numbers[0])
    assert stored is not None
    assert stored == pytest.approx(row.accuracies.mean(axis=0), abs=1e-9)
    assert correct_predictions(row).dtype == np.uint16


def test_a_run_on_the_same_episodes_is_compared_episode_by_episode(maker: Any, numbers: tuple[Published, ...]) -> None:
    row = later_run(maker)
    paired = difference(row, numbers[0], 0.7)
    unpaired = difference(row, numbers[0].model_copy(update={"episodes": None}), 0.7)
    stored = paired_accuracies(row, numbers[0])
    assert stored is not None
    episodes = stats.sample_estimate(row.accuracies[0] - stored)
    assert numbers[0].run_sd_pct is not None
    deviation = numbers[0].run_sd_pct / 100 * math.sqrt(1 + 1 / SEEDS)
    expected = math.hypot(episodes.ci95, stats.ErrorPart(deviation, SEEDS - 1).half_width(0.95))
    assert paired.mean == pytest.approx(episodes.mean)
    assert paired.ci95 == pytest.approx(expected)
    assert paired.ci95 < 0.7 * unpaired.ci95


def test_a_run_on_other_episodes_is_compared_by_its_mean(maker: Any, numbers: tuple[Published, ...]) -> None:
    row = later_run(maker)
    assert numbers[0].episodes is not None
    other = numbers[0].episodes.model_copy(update={"episodes_hash": "of other episodes"})
    number = numbers[0].model_copy(update={"episodes": other})
    assert paired_accuracies(row, number) is None
    assert difference(row, number, 0.7).mean == pytest.approx(row.estimate.mean - number.accuracy_pct / 100)


def test_the_same_settings_agree_and_others_are_not_comparable(maker: Any, numbers: tuple[Published, ...]) -> None:
    same, changed = later_run(maker, 0.602), later_run(maker, recipe={"learning_rate": 0.2})
    another = later_run(maker, recipe={"learning_rate": 0.2}, recipe_name="faster")
    verdicts = judge_suite([same, changed, another], numbers, Report(margin_pct=3.0)).rows
    assert [verdict.word for verdict in verdicts] == ["agrees", "not comparable", "none published"]
    assert verdicts[1].reasons == ("settings differ from those of the expected number",)
    assert verdicts[1].difference is None


def test_files_that_do_not_belong_together_are_refused(maker: Any, numbers: tuple[Published, ...]) -> None:
    wrong = numbers[0].model_copy(update={"accuracy_pct": numbers[0].accuracy_pct + 1})
    with pytest.raises(DataError, match=r"expected\.npz: array .* does not match"):
        paired_accuracies(later_run(maker), wrong)


def test_damaged_predictions_are_refused(maker: Any, numbers: tuple[Published, ...]) -> None:
    assert numbers[0].episodes is not None
    file = Path(numbers[0].episodes.file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"expected\.npz: not readable .*'fewshot expected'"):
        paired_accuracies(later_run(maker), numbers[0])


def test_a_single_seed_is_refused(maker: Any, tmp_path: Path) -> None:
    maker.add("ridge")
    with pytest.raises(DataError, match=r"glyphs-conv4-ridge-quick: one training seed.*seed: \[1, 2, 3\]"):
        write_expected_of(maker.suite(), SOURCE, tmp_path / "expected.yaml")
    assert not (tmp_path / "expected.yaml").exists()
