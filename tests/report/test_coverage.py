"""Which rows can get a verdict: the suites of params.yaml against the published numbers."""

from pathlib import Path

import pytest

from fewshot.cli import main
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.reader import read_params
from fewshot.report.coverage import NONE_PUBLISHED, planned_rows, suite_coverage
from fewshot.report.matching import UNKNOWN_TRAINING, UNREAD, closest
from fewshot.report.published import published_numbers

SHIPPED = Path(__file__).parents[2] / "params.yaml"
EXACT = "QP solver in the test"


def coverage_of(suite: str):  # type: ignore[no-untyped-def]
    return suite_coverage(suite, suite_experiments(read_params(SHIPPED), suite))


def test_every_row_of_the_default_suite_has_an_expected_number() -> None:
    coverage = coverage_of("quickstart")
    assert coverage.expected == coverage.comparable == coverage.rows


def test_metaoptnet_rows_have_a_verdict_except_r2d2_and_protonet_on_cifar_and_the_optima() -> None:
    coverage = coverage_of("metaoptnet")
    conv4_protonet_and_r2d2_on_two_sets = 4 + 4
    optima_of_resnet12_on_four_sets = 8
    assert dict(coverage.others) == {
        UNKNOWN_TRAINING: conv4_protonet_and_r2d2_on_two_sets,
        EXACT: optima_of_resnet12_on_four_sets,
    }
    assert coverage.published == coverage.rows - 16


def test_every_row_as_released_has_a_verdict_on_the_settings_of_the_program() -> None:
    coverage = coverage_of("metaoptnet_as_released")
    assert coverage.published == coverage.rows == 28
    for experiment in suite_experiments(read_params(SHIPPED), "metaoptnet_as_released"):
        for row in planned_rows(experiment):
            number = closest(row, published_numbers()).number
            assert number is not None
            assert number.reading == "program"


def test_the_ablation_follows_table_4_and_table_1() -> None:
    found = [
        closest(row, published_numbers())
        for experiment in suite_experiments(read_params(SHIPPED), "metaoptnet_ablation")
        for row in planned_rows(experiment)
        if row.shot == 1
    ]
    numbers = [(match.number.accuracy_pct, [d.text for d in match.departures]) for match in found if match.number]
    assert numbers == [(51.13, []), (56.65, [UNREAD]), (55.80, [UNREAD]), (60.33, []), (61.11, []), (62.64, [])]


def test_every_cxgrad_row_is_comparable_except_with_unread_numbers() -> None:
    found = {
        (row.entry.dataset, row.shot): [departure.text for departure in closest(row, published_numbers()).departures]
        for experiment in suite_experiments(read_params(SHIPPED), "cxgrad")
        for row in planned_rows(experiment)
        if row.selection == "ensemble" and row.entry.learner == "cxgrad" and row.entry.target == row.entry.dataset
        if row.entry.dataset != "cifar_fs"
    }
    assert found == {
        ("mini_imagenet", 1): [UNREAD],
        ("mini_imagenet", 5): [],
        ("tiered_imagenet", 1): [UNREAD],
        ("tiered_imagenet", 5): [],
    }


def test_the_command_prints_one_suite_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    main(["coverage", "--suite", "cpu_evidence_resnet12", "--params", str(SHIPPED)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["| `cpu_evidence_resnet12` | 2 | 0 | 2 reduced training |"]
    main(["coverage", "--params", str(SHIPPED)])
    out = capsys.readouterr().out
    assert all(f"| `{suite}` |" in out for suite in read_params(SHIPPED).suites)
    assert NONE_PUBLISHED in out


def test_an_unknown_suite_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["coverage", "--suite", "metaopnet", "--params", str(SHIPPED)])
    assert "Did you mean 'metaoptnet'?" in capsys.readouterr().err
