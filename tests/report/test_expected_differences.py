"""Differences between rows that are expected: written from several seeds, and judged in a later run."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fewshot.experiments.params import Report
from fewshot.files import read_json, write_json
from fewshot.report import contents, stats, write_report
from fewshot.report.difference_tables import TITLE
from fewshot.report.expected import write_expected_of
from fewshot.report.expected_differences import ExpectedDifference, read_expected_differences
from fewshot.report.measure import Row, group_rows, read_runs
from fewshot.report.published import EXPECTED_FILE, Published, read_expected_file
from fewshot.report.verdict import DifferenceVerdict, judge_suite

SOURCE = {"title": "glyphs evidence", "version": "1", "address": ""}
SEEDS = 8
RUN = 0.03 * np.linspace(-1, 1, SEEDS)  # how each training run deviates
RIDGE = "glyphs-conv4-ridge-quick/glyphs/single/1shot"
SVM_HEAD = "glyphs-conv4-ridge-quick-svm_head/glyphs/single/1shot"

Expected = tuple[tuple[Published, ...], tuple[ExpectedDifference, ...]]


def add_heads(maker: Any, seed: int, ridge: float, svm: float) -> list[Row]:
    """Add the evaluations of one training of ridge regression, as trained and with the SVM's head, and return both."""
    trained = maker.add("ridge", ridge, seed=seed, shots=(1,))
    changed = maker.add("ridge", svm, seed=seed, shots=(1,), recipe_name="quick-svm_head")
    write_json(changed.evaluation, {**read_json(changed.evaluation), "changes": {"head": "svm"}})
    return group_rows([*read_runs(trained), *read_runs(changed)])


@pytest.fixture
def written(maker: Any, tmp_path: Path) -> Path:
    """The expected numbers of three trainings: r2d2 deviates as ridge does, prototype the other way round."""
    for seed, run in enumerate(RUN):
        add_heads(maker, seed, 0.6 + run, 0.58 + run)
        maker.add("r2d2", 0.6 + run, seed=seed, shots=(1,))
        maker.add("prototype", 0.5 - run, seed=seed, shots=(1,))
    out = tmp_path / "expected.yaml"
    write_expected_of(maker.suite(), SOURCE, out)
    maker.entries.clear()
    return out


@pytest.fixture
def expected(written: Path) -> Expected:
    """The numbers, and of the differences that between the two heads."""
    heads = [found for found in read_expected_differences(written) if {found.a, found.b} == {RIDGE, SVM_HEAD}]
    return read_expected_file(written), tuple(heads)


def judged(rows: list[Row], expected: Expected, **settings: Any) -> tuple[DifferenceVerdict, ...]:
    """Return the verdicts on the differences of a suite."""
    numbers, differences = expected
    return judge_suite(rows, numbers, Report(**settings), differences).differences


def test_pairs_of_one_training_and_pairs_that_deviate_together_are_written(written: Path) -> None:
    pairs = [(found.a.split("/")[0], found.b.split("/")[0]) for found in read_expected_differences(written)]
    ridge, svm_head = RIDGE.split("/")[0], SVM_HEAD.split("/")[0]
    assert pairs == [(ridge, svm_head), (ridge, "glyphs-conv4-r2d2-quick"), (svm_head, "glyphs-conv4-r2d2-quick")]


def test_other_pairs_are_not_chosen_from_a_few_seeds(maker: Any, tmp_path: Path) -> None:
    for seed, run in enumerate(RUN[:-1]):
        maker.add("ridge", 0.6 + run, seed=seed, shots=(1,))
        maker.add("r2d2", 0.6 + run, seed=seed, shots=(1,))
    write_expected_of(maker.suite(), SOURCE, tmp_path / "expected.yaml")
    assert read_expected_differences(tmp_path / "expected.yaml") == ()


def test_rows_of_one_training_are_written_however_they_vary(maker: Any, tmp_path: Path) -> None:
    for seed, run in enumerate(RUN):
        add_heads(maker, seed, 0.6 + run, 0.6 - run)
    write_expected_of(maker.suite(), SOURCE, tmp_path / "expected.yaml")
    assert len(read_expected_differences(tmp_path / "expected.yaml")) == 1


def test_the_difference_and_its_deviation_are_those_of_the_seeds(maker: Any, tmp_path: Path) -> None:
    entries = [add_heads(maker, seed, 0.6 + run, 0.58 + run) for seed, run in enumerate(RUN)]
    means = [100 * float((a.accuracies - b.accuracies).mean()) for a, b in entries]
    write_expected_of(maker.suite(), SOURCE, tmp_path / "expected.yaml")
    (found,) = read_expected_differences(tmp_path / "expected.yaml")
    assert found.difference_pct == pytest.approx(np.mean(means), abs=0.005)
    assert found.run_sd_pct == pytest.approx(np.std(means, ddof=1), abs=1e-4)
    assert found.seeds == SEEDS


def test_the_gap_is_taken_episode_by_episode_with_the_deviation_of_the_difference(
    maker: Any, written: Path, expected: Expected
) -> None:
    rows = add_heads(maker, 20, 0.61, 0.58)
    (found,) = judged(rows, expected)
    with np.load(written.with_suffix(".npz")) as arrays:
        theirs = (arrays[RIDGE].astype(float) - arrays[SVM_HEAD]) / (75 * SEEDS)
    episodes = stats.sample_estimate(rows[0].accuracies[0] - rows[1].accuracies[0] - theirs)
    scatter = stats.ErrorPart(found.expected.run_sd_pct / 100 * math.sqrt(1 + 1 / SEEDS), SEEDS - 1)
    assert found.gap.mean == pytest.approx(episodes.mean)
    assert found.gap.ci95 == pytest.approx(math.hypot(episodes.ci95, scatter.half_width(0.95)))


@pytest.mark.parametrize(("svm", "word"), [(0.59, "agrees"), (0.50, "higher"), (0.68, "lower")])
def test_a_head_that_changed_is_found_where_its_training_run_deviates(
    maker: Any, expected: Expected, svm: float, word: str
) -> None:
    rows = add_heads(maker, 20, 0.61, svm)
    (found,) = judged(rows, expected, margin_pct=4.0)
    assert found.word == word


def test_the_order_of_the_suite_decides_which_row_is_subtracted(maker: Any, expected: Expected) -> None:
    ridge, svm = add_heads(maker, 20, 0.61, 0.50)
    (found,), (other_way,) = judged([ridge, svm], expected), judged([svm, ridge], expected)
    assert (found.word, other_way.word) == ("higher", "lower")
    assert other_way.gap.mean == pytest.approx(-found.gap.mean)
    assert other_way.expected.difference_pct == -found.expected.difference_pct


def test_several_seeds_of_ours_are_compared_with_their_own_deviation(maker: Any, expected: Expected) -> None:
    heads = [add_heads(maker, seed, 0.6, 0.58) for seed in (20, 21, 22)]
    rows = group_rows([run for pair in heads for row in pair for run in row.runs])
    (found,) = judged(rows, expected)
    ours = stats.deviation_of_seed_means(rows[0].accuracies - rows[1].accuracies)
    assert ours is not None
    known = stats.ErrorPart(found.expected.run_sd_pct / 100, SEEDS - 1)
    pooled = stats.pooled([known, ours])
    assert found.gap.parts[-1].std_error == pytest.approx(pooled.std_error * math.sqrt(1 / 3 + 1 / SEEDS))
    assert found.gap.parts[-1].dof == SEEDS + 1


def test_rows_of_different_seeds_are_not_paired(maker: Any, expected: Expected) -> None:
    ridge, _ = add_heads(maker, 20, 0.6, 0.58)
    _, svm = add_heads(maker, 21, 0.6, 0.58)
    assert judged([ridge, svm], expected) == ()


def test_a_row_with_other_settings_has_no_expected_difference(maker: Any, expected: Expected) -> None:
    ridge, svm = add_heads(maker, 20, 0.6, 0.58)
    faster = maker.add("ridge", 0.6, seed=20, shots=(1,), recipe={"learning_rate": 0.2})
    assert len(judged([ridge, svm], expected)) == 1
    assert judged([group_rows(read_runs(faster))[0], svm], expected) == ()


def test_differences_count_as_tests_of_the_suite(maker: Any, expected: Expected) -> None:
    rows, (numbers, differences) = add_heads(maker, 20, 0.7, 0.68), expected
    alone = judge_suite(rows, numbers, Report()).rows
    together = judge_suite(rows, numbers, Report(), differences).rows
    smallest = [min(verdict.p_value for verdict in found if verdict.p_value) for found in (alone, together)]
    assert smallest[1] == pytest.approx(smallest[0] * 3 / 2)


def test_a_significant_gap_within_the_margin_is_a_change_of_what_was_expected(maker: Any, expected: Expected) -> None:
    rows, (numbers, _) = add_heads(maker, 20, 0.68, 0.58), expected
    exact = [number.model_copy(update={"run_sd_pct": 0.01}) for number in numbers]
    assert judge_suite(rows, exact, Report(margin_pct=20)).rows[0].word == "higher"


def test_every_format_shows_the_verdict(
    maker: Any, written: Path, expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, differences = expected
    monkeypatch.setattr(contents, "expected_numbers", lambda: numbers)
    monkeypatch.setattr(contents, "expected_differences", lambda: differences)
    add_heads(maker, 20, 0.7, 0.58)
    out = tmp_path / "out"
    terminal = write_report(maker.suite(), out).text
    for text in (terminal, *((out / name).read_text() for name in ("results.md", "results.tex", "report.html"))):
        assert "higher" in text[text.index(TITLE) :]
    (record,) = csv.DictReader((out / "differences.csv").open())
    assert (record["verdict"], record["expected_pct"]) == ("higher", f"{differences[0].difference_pct:.2f}")
    assert float(record["gap_pct"]) == pytest.approx(
        float(record["difference_pct"]) - differences[0].difference_pct, abs=0.01
    )


def test_a_suite_without_expected_differences_has_no_such_table(maker: Any, tmp_path: Path) -> None:
    maker.add("maml", 0.6)
    write_report(maker.suite(), tmp_path / "out")
    assert TITLE not in (tmp_path / "out" / "results.md").read_text()
    assert TITLE not in (tmp_path / "out" / "report.html").read_text()


def test_the_shipped_differences_are_of_the_shipped_numbers() -> None:
    content = yaml.safe_load(EXPECTED_FILE.read_text())
    by_array = {number["episodes"]["array"]: number for number in content["numbers"]}
    for found in read_expected_differences(EXPECTED_FILE):
        a, b = by_array[found.a], by_array[found.b]
        assert found.difference_pct == pytest.approx(a["accuracy_pct"] - b["accuracy_pct"], abs=0.02)
