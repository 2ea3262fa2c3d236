"""The verdict rule of docs/protocol.md, and the published numbers it uses."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot.backbones import BACKBONES
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Recipe
from fewshot.experiments.reader import read_params
from fewshot.files import write_csv
from fewshot.learners import LEARNERS
from fewshot.report.contents import Cell, counterpart, read_contents
from fewshot.report.expected import write_expected
from fewshot.report.inputs import ReportEntry
from fewshot.report.measure import Row, Run, group_rows, read_runs
from fewshot.report.published import PUBLISHED_FILE, Published, published_numbers, read_expected_file
from fewshot.report.tables import result_record
from fewshot.report.verdict import Verdict, difference, judge

METAOPTNET = {
    "n_shot": 15, "n_query": 6, "meta_batch": 8, "epochs": 60, "steps_per_epoch": 1000, "image_size": 84,
    "schedule": [[20, 0.06], [40, 0.012], [50, 0.0024]], "label_smoothing": 0.1, "normalization": "imagenet",
    "augmentation": {"crop_padding": 8, "jitter": 0.4, "flip": True},
}  # fmt: skip


def row_of(maker: Any, accuracy: float, shot: int = 1, **changes: Any) -> Row:
    """Return the row of MetaOptNet-SVM on miniImageNet as published, with changes."""
    recipe = {**METAOPTNET, **changes.pop("recipe", {})}
    settings = {"dataset": "mini_imagenet", "backbone": {"name": "resnet12"}, "shots": (shot,), **changes}
    entry = maker.add("svm", accuracy, recipe=recipe, **settings)
    return group_rows(read_runs(entry))[0]


def test_the_same_number_agrees(maker: Any) -> None:
    verdict = judge(row_of(maker, 0.6264), published_numbers())
    assert verdict.number is not None
    assert (verdict.word, verdict.number.accuracy_pct, verdict.number.table) == ("agrees", 62.64, "Table 1")


@pytest.mark.parametrize(("accuracy", "word"), [(0.52, "lower"), (0.74, "higher")])
def test_a_difference_beyond_its_interval_is_higher_or_lower(maker: Any, accuracy: float, word: str) -> None:
    assert judge(row_of(maker, accuracy), published_numbers()).word == word


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": {"epochs": 20}}, "reduced training: 160 000 of 480 000 episodes"),
        ({"recipe": {"label_smoothing": 0.0}}, "other training settings: label_smoothing 0.0, published 0.1"),
        ({"recipe": {"train_split": "trainval"}}, "training classes: trainval, published train"),
        ({"selection": "ensemble"}, "selection: ensemble, published single"),
        ({"batch_norm": "transductive"}, "batch norm: transductive, published running"),
    ],
)
def test_each_departure_from_the_protocol_is_a_reason(maker: Any, changes: dict[str, Any], reason: str) -> None:
    verdict = judge(row_of(maker, 0.6264, **changes), published_numbers())
    assert verdict.word == "not comparable"
    assert reason in verdict.reasons


def test_trainval_runs_are_compared_with_the_trainval_number(maker: Any) -> None:
    changes = {"train_split": "trainval", "epochs": 21}
    verdict = judge(row_of(maker, 0.64, recipe=changes), published_numbers())
    assert verdict.number is not None
    assert (verdict.word, verdict.number.method) == ("agrees", "MetaOptNet-SVM-trainval")


def test_an_unconfirmed_number_is_not_comparable(maker: Any) -> None:
    entry = maker.add(
        "cxgrad", 0.518, dataset="mini_imagenet", shots=(1,), selection="ensemble", batch_norm="transductive",
        backbone={"name": "conv4_maml", "filters": 48, "bias": False, "pooling": "max"},
        learner_settings={"inner_steps": 5, "inner_learning_rate": 0.01, "second_order": True},
    )  # fmt: skip
    verdict = judge(group_rows(read_runs(entry))[0], published_numbers())
    assert verdict.word == "not comparable"
    assert "unconfirmed source" in verdict.reasons


def test_an_unknown_cell_has_no_published_number(maker: Any) -> None:
    assert judge(row_of(maker, 0.6, dataset="glyphs"), published_numbers()).word == "none published"
    assert judge(row_of(maker, 0.6, shot=3), published_numbers()).word == "none published"


def test_an_untrained_learner_is_not_the_published_method(maker: Any) -> None:
    assert judge(row_of(maker, 0.3, recipe={"epochs": 0}), published_numbers()).word == "none published"


def test_the_difference_adds_both_errors(maker: Any) -> None:
    row = row_of(maker, 0.6264)
    number = judge(row, published_numbers()).number
    assert number is not None
    gap = difference(row, number)
    assert gap.mean == pytest.approx(row.estimate.mean - 0.6264)
    assert gap.ci95 == pytest.approx(math.hypot(row.estimate.ci95, 0.0061), rel=1e-6)


def test_a_binomial_interval_is_replaced_by_ours_scaled_to_its_number_of_episodes(maker: Any) -> None:
    row = row_of(maker, 0.6264)
    number = judge(row, published_numbers()).number
    assert number is not None
    protocol = number.protocol.model_copy(update={"interval": "predictions", "episodes": 15})
    gap = difference(row, number.model_copy(update={"protocol": protocol}))
    assert gap.ci95 == pytest.approx(math.hypot(row.estimate.ci95, 2 * row.estimate.ci95), rel=1e-6)


def test_with_several_seeds_the_deviation_of_a_single_published_run_is_added(maker: Any) -> None:
    entries = [
        maker.add("svm", 0.6264 + step, dataset="mini_imagenet", backbone={"name": "resnet12"}, seed=seed,
                  recipe=METAOPTNET, shots=(1,))
        for seed, step in enumerate((-0.02, 0.0, 0.02))
    ]  # fmt: skip
    row = group_rows([run for entry in entries for run in read_runs(entry)])[0]
    verdict = judge(row, published_numbers())
    assert verdict.difference is not None
    assert (
        len(verdict.difference.parts) == 4
    )  # our episodes, our seeds, the published interval, the seed of the published run
    assert verdict.word == "agrees"


def test_expected_numbers_of_several_seeds_are_compared_like_published_ones(maker: Any, tmp_path: Path) -> None:
    for seed in range(3):
        maker.add("ridge", 0.6 + 0.01 * seed, seed=seed)
    cells = read_contents(maker.suite()).cells
    records = [result_record(cell) for cell in cells]
    write_csv(tmp_path / "results.csv", records, list(records[0]))
    source = {"title": "glyphs evidence", "version": "1", "address": ""}
    write_expected(tmp_path / "results.csv", source, tmp_path / "expected.yaml")
    numbers = read_expected_file(tmp_path / "expected.yaml")
    maker.entries.clear()
    same, other = maker.add("ridge", 0.6, seed=7), maker.add("ridge", 0.6, seed=8, recipe={"learning_rate": 0.2})
    assert judge(group_rows(read_runs(same))[0], numbers).word == "agrees"
    assert judge(group_rows(read_runs(other))[0], numbers).reasons == (
        "settings differ from those of the expected number",
    )


def test_the_heading_says_whether_numbers_are_published_or_expected(maker: Any) -> None:
    def cell(number: Published | None) -> Cell:
        row = group_rows(read_runs(maker.add("ridge", 0.6)))[0]
        return Cell(row, "ridge", Verdict("agrees" if number else "none published", number=number), "")

    published = published_numbers()[0]
    own = published.model_copy(update={"settings_hash": "1c10efba293b"})
    for numbers, heading in (
        ([own, None], "expected"),
        ([own, published], "published"),
        ([published, None], "published"),
        ([None], "published"),
    ):
        assert counterpart(map(cell, numbers)) == heading


def test_every_number_of_the_file_is_read() -> None:
    numbers = published_numbers()
    assert len(numbers) == 200
    assert all(0 < number.accuracy_pct < 100 for number in numbers)
    assert all(number.ci95_pct is None or number.ci95_pct < 2 for number in numbers)


@pytest.mark.parametrize(
    ("source", "dataset", "shot", "learner", "backbone", "accuracy", "ci95"),
    [
        ("MetaOptNet", "tiered_imagenet", 5, "ridge", "resnet12", 81.34, 0.52),
        ("MetaOptNet", "fc100", 1, "svm", "resnet12", 41.1, 0.6),
        ("MetaOptNet", "mini_imagenet", 1, "prototype", "conv4", 53.47, 0.63),
        ("MetaOptNet", "cifar_fs", 5, "prototype", "resnet12", 83.5, 0.5),
        ("CxGrad", "tiered_imagenet", 5, "cxgrad", "conv4_maml", 73.55, 0.41),
        ("ALFA", "mini_imagenet", 5, "alfa", "conv4_maml", 69.12, 0.47),
    ],
)
def test_numbers_of_the_papers(
    source: str, dataset: str, shot: int, learner: str, backbone: str, accuracy: float, ci95: float
) -> None:
    found = {
        (number.accuracy_pct, number.ci95_pct)
        for number in published_numbers()
        if source in number.source.title
        and (number.dataset, number.target, number.shot) == (dataset, dataset, shot)
        and (number.learner or {}).get("name") == learner
        and (number.backbone or {}).get("name") == backbone
    }
    assert (accuracy, ci95) in found


def test_components_and_settings_named_in_the_file_exist() -> None:
    for number in published_numbers():
        for part, known in ((number.backbone, BACKBONES), (number.learner, LEARNERS)):
            if part is not None and part["name"] in known:
                names = set(known[part["name"]].settings.model_fields)
                assert set(part) - {"name"} <= names, part
        assert set(number.training or {}) <= set(Recipe.model_fields)


def resolved_rows(suite: str, selection: str) -> Iterator[Row]:
    """Yield the rows that a suite of params.yaml would have after a full run."""
    root = Path(__file__).parents[2]
    for experiment in suite_experiments(read_params(root / "params.yaml"), suite):
        entry = ReportEntry(
            experiment.name, experiment.group, experiment.recipe_name, experiment.variant, experiment.dataset.label,
            experiment.dataset.label, experiment.backbone.label, experiment.learner.label, experiment.seed,
            root, root, root, root, None, "",
        )  # fmt: skip
        batch_norm = "transductive" if experiment.backbone.name == "conv4_maml" else "running"
        protocol = {"train": experiment.train_settings(), "n_way": 5, "split": "test", "batch_norm": batch_norm}
        for shot in experiment.shots:
            yield Row((Run(entry, protocol, shot, selection, np.linspace(0, 1, 50), 0, None, ""),))


def test_every_full_size_metaoptnet_experiment_is_comparable_with_its_published_number() -> None:
    known = [
        row
        for row in resolved_rows("metaoptnet", "single")
        if row.entry.backbone == "resnet12" or row.entry.dataset in ("mini_imagenet", "tiered_imagenet")
        if row.entry.learner != "r2d2"
    ]
    assert len(known) > 30
    for row in known:
        verdict = judge(row, published_numbers())
        assert verdict.number is not None, row.entry.experiment
        assert verdict.reasons == (), row.entry.experiment


def test_every_full_size_cxgrad_experiment_is_comparable_except_with_unconfirmed_numbers() -> None:
    known = [
        row
        for row in resolved_rows("cxgrad", "ensemble")
        if row.entry.learner == "cxgrad" and row.entry.dataset in ("mini_imagenet", "tiered_imagenet")
    ]
    reasons = {(row.entry.dataset, row.shot): judge(row, published_numbers()).reasons for row in known}
    assert reasons == {
        ("mini_imagenet", 1): ("unconfirmed source",),
        ("mini_imagenet", 5): (),
        ("tiered_imagenet", 1): ("unconfirmed source",),
        ("tiered_imagenet", 5): (),
    }


def test_numbers_are_shown_as_in_the_source() -> None:
    text = PUBLISHED_FILE.read_text(encoding="utf-8")
    assert [number.text for number in published_numbers() if number.text not in text] == []
    assert any(number.text == "72.0 ± 0.6" for number in published_numbers())
