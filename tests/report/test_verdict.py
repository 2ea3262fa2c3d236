"""The verdict rule of docs/protocol.md, and the published numbers it uses."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from fewshot.backbones import BACKBONES
from fewshot.experiments.params import Recipe, Report
from fewshot.files import read_json, write_json
from fewshot.learners import LEARNERS
from fewshot.report import stats
from fewshot.report.contents import Cell, counterpart
from fewshot.report.difference import difference
from fewshot.report.matching import solver_iterations
from fewshot.report.measure import Row, group_rows, read_runs
from fewshot.report.published import PUBLISHED_FILE, Protocol, Published, published_numbers
from fewshot.report.tables import run_record
from fewshot.report.verdict import Verdict, judge_suite

METAOPTNET = {
    "n_shot": 15, "n_query": 6, "meta_batch": 8, "epochs": 60, "steps_per_epoch": 1000, "image_size": 84,
    "schedule": [[20, 0.06], [40, 0.012], [50, 0.0024]], "label_smoothing": 0.1, "normalization": "imagenet",
    "augmentation": {"crop_padding": 8, "jitter": 0.4, "flip": True},
}  # fmt: skip


RESNET12 = {"name": "resnet12", "drop_rate": 0.1, "dropblock": "ramp", "dropblock_ramp_steps": 20_000}
FOUR_GPUS = {"name": "resnet12", "drop_rate": 0.1, "dropblock": "off", "dropblock_ramp_steps": 20_000}
SVM = {"bound": 0.1, "solver": "truncated", "max_iterations": 3}


def row_of(maker: Any, accuracy: float, shot: int = 1, seeds: int = 1, **changes: Any) -> Row:
    """Return the row of MetaOptNet-SVM on miniImageNet as published, with changes."""
    recipe = {**METAOPTNET, **changes.pop("recipe", {})}
    settings = {
        "dataset": "mini_imagenet", "backbone": RESNET12, "learner_settings": SVM, "shots": (shot,), **changes
    }  # fmt: skip
    entries = [maker.add("svm", accuracy, recipe=recipe, seed=seed, **settings) for seed in range(seeds)]
    return group_rows([run for entry in entries for run in read_runs(entry)])[0]


def judge(row: Row, numbers: Sequence[Published] = published_numbers(), **settings: Any) -> Verdict:
    """Return the verdict on the only row of a suite."""
    return judge_suite([row], numbers, Report(**settings)).rows[0]


def table_1(accuracy_pct: float) -> Published:
    """Return MetaOptNet's printed number with this mean, as the paper describes its training."""
    return next(
        number
        for number in published_numbers()
        if number.table == "Table 1" and number.reading == "paper" and number.accuracy_pct == accuracy_pct
    )


def test_a_run_is_compared_with_the_number_of_its_settings(maker: Any) -> None:
    verdict = judge(row_of(maker, 0.6264))
    assert verdict.number is not None
    assert (verdict.reasons, verdict.number.accuracy_pct, verdict.number.table) == ((), 62.64, "Table 1")


@pytest.mark.parametrize(("accuracy", "word"), [(0.52, "lower"), (0.74, "higher"), (0.6264, "undecided")])
def test_one_run_against_one_printed_run_is_decided_only_by_a_large_difference(
    maker: Any, accuracy: float, word: str
) -> None:
    """Two runs of the same program differ by 1.0 point (0.7 each), more than a margin of 1.5 points can tell."""
    assert judge(row_of(maker, accuracy)).word == word


@pytest.mark.parametrize(
    ("step", "margin_pct", "word"), [(0.0, 3.0, "agrees"), (0.06, 3.0, "higher"), (0.0, 1.0, "undecided")]
)
def test_agreement_is_a_difference_within_the_margin_with_confidence(
    maker: Any, step: float, margin_pct: float, word: str
) -> None:
    """Sixty episodes and runs that hardly vary: the 90 % interval of the difference is 1.8 points on each side."""
    row = row_of(maker, 0.6264, seeds=20)
    number = table_1(62.64).model_copy(
        update={"accuracy_pct": 100 * (row.estimate.mean - step), "ci95_pct": 0.1, "run_sd_pct": 0.1, "seeds": 50}
    )
    verdict = judge(row, [number], margin_pct=margin_pct)
    assert verdict.reasons == ()
    assert verdict.word == word
    assert verdict.difference is not None
    inside = abs(verdict.difference.mean) + verdict.difference.half_width(0.90) <= margin_pct / 100
    assert inside == (word == "agrees")


def test_significance_is_corrected_over_the_comparable_rows_of_the_suite(maker: Any) -> None:
    row = row_of(maker, 0.6264, seeds=20)
    number = table_1(62.64).model_copy(update={"run_sd_pct": 0.1, "seeds": 50, "ci95_pct": 0.1})
    gap = difference(row, number.model_copy(update={"accuracy_pct": 100 * row.estimate.mean}), 0.7)
    barely = number.model_copy(update={"accuracy_pct": 100 * (row.estimate.mean - 1.2 * gap.ci95)})
    (alone,) = judge_suite([row], [barely], Report(margin_pct=0.01)).rows
    among_ten = judge_suite([row] * 10, [barely], Report(margin_pct=0.01)).rows
    other_cell = row_of(maker, 0.6, shot=3)
    among_incomparable = judge_suite([row, *[other_cell] * 9], [barely], Report(margin_pct=0.01)).rows
    assert alone.word == "higher"
    assert {verdict.word for verdict in among_ten} == {"undecided"}
    assert among_incomparable[0].word == "higher"


def test_rows_as_described_and_as_released_are_different_cells(maker: Any) -> None:
    described, released = (
        row_of(maker, 0.6264),
        row_of(maker, 0.6264, backbone=FOUR_GPUS, recipe={"episodes_per_backward": 2}, recipe_name="released"),
    )
    verdicts = [judge(row) for row in (described, released)]
    assert [verdict.number.reading for verdict in verdicts if verdict.number] == ["paper", "program"]
    assert [verdict.reasons for verdict in verdicts] == [(), ()]
    on_devices = row_of(maker, 0.6264, backbone=FOUR_GPUS, recipe={"devices": 4}, recipe_name="devices")
    assert judge(on_devices).reasons == ()


def test_the_exact_optimum_is_not_the_published_classifier(maker: Any) -> None:
    exact = row_of(maker, 0.6264, learner_settings={"bound": 0.1, "solver": "exact", "max_iterations": 3})
    assert judge(exact).reasons == ("QP solver in the test: optimum, published 3 iterations",)


def test_a_run_without_label_smoothing_is_never_compared_with_the_number_with_it(maker: Any) -> None:
    """Table 4 has a row for it; with other departures too, that row stays the closest."""
    for name, changes in {"all": {}, "fewer": {"epochs": 20}, "decay": {"weight_decay": 0.0}}.items():
        verdict = judge(row_of(maker, 0.6, recipe={"label_smoothing": 0.0, **changes}, recipe_name=name))
        assert verdict.number is not None
        assert verdict.number.accuracy_pct == 61.11


def test_no_difference_is_given_from_the_number_of_another_network(maker: Any) -> None:
    entry = maker.add("prototype", 0.7, dataset="cifar_fs", backbone={"name": "conv4", "filters": 8}, shots=(5,))
    verdict = judge(group_rows(read_runs(entry))[0])
    assert "other backbone: filters 8, published 64" in verdict.reasons
    assert verdict.difference is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": {"epochs": 20}}, "reduced training: 160 000 of 480 000 episodes"),
        ({"recipe": {"label_smoothing": 0.2}}, "other training settings: label_smoothing 0.2, published 0.1"),
        ({"recipe": {"epochs": 20, "n_query": 15}}, "other training settings: n_query 15, published 6"),
        (
            {"recipe": {"validation": {"n_shot": 1}}},
            "other training settings: validation.n_shot 1, published 5",
        ),
        ({"recipe": {"train_split": "trainval"}}, "training classes: trainval, published train"),
        ({"selection": "ensemble"}, "selection: ensemble, published single"),
        ({"batch_norm": "transductive"}, "batch norm: transductive, published running"),
    ],
)
def test_each_departure_from_the_protocol_is_a_reason(maker: Any, changes: dict[str, Any], reason: str) -> None:
    verdict = judge(row_of(maker, 0.6264, **changes))
    assert verdict.word == "not comparable"
    assert reason in verdict.reasons


def row_tested_with(maker: Any, learner: str, **changes: Any) -> Row:
    """Return the row of a learner on miniImageNet that was evaluated with other settings than in training."""
    entry = maker.add(learner, 0.6, dataset="mini_imagenet", backbone=RESNET12, recipe=METAOPTNET, shots=(1,))
    write_json(entry.evaluation, {**read_json(entry.evaluation), "changes": changes})
    return group_rows(read_runs(entry))[0]


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"head": "logistic", "augmented_support": 5}, None),
        ({"head": "logistic"}, ()),
        ({"head": "logistic", "centre": True}, ("other learner: centre True, published False",)),
        ({}, ("other learner: head prototype, published logistic",)),
        ({"head": "logistic", "pooling": "flatten"}, ("pooling in the test: flatten, published mean",)),
    ],
)
def test_the_head_and_the_features_of_a_classifier_are_those_of_the_test(
    maker: Any, changes: dict[str, Any], reasons: tuple[str, ...] | None
) -> None:
    verdict = judge(row_of_rfs(maker, **changes))
    augmented = "random augmentations of a support image in the test: 0, published 5"
    assert set(verdict.reasons) == (set() if reasons is None else {*reasons, augmented})


def row_of_rfs(maker: Any, epochs: int = 100, **changes: Any) -> Row:
    """Return the row of RFS's classifier, trained as printed but for the number of epochs, with changes in the test."""
    settings = {"head": "prototype", "head_settings": {}, "l2": True, "centre": False}
    backbone = {"name": "resnet12", "drop_rate": 0.1, "pooling": "mean"}
    printed = next(n for n in published_numbers() if "RFS" in n.source.title and n.dataset == "cifar_fs").training
    recipe = {**printed, "epochs": epochs}
    entry = maker.add(
        "classifier", 0.7, dataset="cifar_fs", backbone=backbone, learner_settings=settings, recipe=recipe, shots=(1,)
    )
    write_json(entry.evaluation, {**read_json(entry.evaluation), "changes": changes})
    return group_rows(read_runs(entry))[0]


@pytest.mark.parametrize(
    ("trained", "tested", "reasons"),
    [
        ("flatten", None, set()),
        ("mean", None, {"other backbone: pooling mean, published flatten"}),
        ("flatten", "mean", {"pooling in the test: mean, published flatten"}),
        ("mean", "flatten", {"other backbone: pooling mean, published flatten"}),
    ],
)
def test_the_pooling_of_the_training_and_of_the_test_are_those_published(
    maker: Any, trained: str, tested: str | None, reasons: set[str]
) -> None:
    """MetaOptNet flattens, which results leave out as the default."""
    backbone = {**RESNET12, **({"pooling": trained} if trained != "flatten" else {})}
    entry = maker.add("ridge", 0.6, dataset="mini_imagenet", backbone=backbone, recipe=METAOPTNET, shots=(1,))
    changes = {"changes": {"pooling": tested}} if tested else {}
    write_json(entry.evaluation, {**read_json(entry.evaluation), **changes})
    (row,) = group_rows(read_runs(entry))
    verdict = judge(row)
    assert {reason for reason in verdict.reasons if "pooling" in reason} == reasons
    assert (verdict.difference is None) == bool(reasons)


def test_a_shorter_training_of_a_classifier_is_counted_in_images(maker: Any) -> None:
    verdict = judge(row_of_rfs(maker, epochs=10, head="logistic", augmented_support=5))
    assert verdict.reasons == ("reduced training: 384 000 of 3 840 000 images",)


def test_a_training_that_starts_from_another_one_is_not_comparable_with_one_from_random_weights(maker: Any) -> None:
    entry = maker.add("svm", 0.6264, dataset="mini_imagenet", backbone=RESNET12, recipe=METAOPTNET, shots=(1,))
    record = read_json(entry.evaluation)
    record["train"]["init"] = {"learner": {"name": "classifier"}}
    write_json(entry.evaluation, record)
    verdict = judge(group_rows(read_runs(entry))[0])
    assert verdict.word == "not comparable"
    assert "start: classifier, published random weights" in verdict.reasons


@pytest.mark.parametrize(
    ("settings", "iterations", "reason"),
    [
        ({}, None, "QP solver in the test: optimum, published 3 iterations"),
        ({"solver": "truncated"}, 15, "QP solver in the test: 15 iterations, published 3 iterations"),
        ({"solver": "truncated", "max_iterations": 1}, 1, "QP solver in the test: 1 iteration, published 3 iterations"),
    ],
)
def test_settings_of_another_head_that_are_not_given_have_their_defaults(
    maker: Any, settings: dict[str, Any], iterations: int | None, reason: str
) -> None:
    row = row_tested_with(maker, "prototype", head="svm", head_settings=settings)

    assert solver_iterations(row) == iterations
    assert {reason, "trained with another head: prototype"} <= set(judge(row).reasons)


@pytest.mark.parametrize(
    ("learner", "changes", "solver"),
    [
        ("prototype", {"head": "svm"}, "exact"),
        ("svm", {"head": "ridge"}, "closed form"),
        ("svm", {"head_settings": {"solver": "truncated", "max_iterations": 3}}, "truncated"),
    ],
)
def test_the_tables_name_the_solver_of_the_test(maker: Any, learner: str, changes: dict[str, Any], solver: str) -> None:
    assert run_record(row_tested_with(maker, learner, **changes).runs[0])["solver"] == solver


def test_trainval_runs_are_compared_with_the_trainval_number(maker: Any) -> None:
    changes = {"train_split": "trainval", "epochs": 21, "validation": {"episodes": 0}}
    verdict = judge(row_of(maker, 0.64, recipe=changes))
    assert verdict.number is not None
    assert (verdict.reasons, verdict.number.method) == ((), "MetaOptNet-SVM-trainval")


CXGRAD = {
    "n_query": 15, "meta_batch": 4, "epochs": 100, "steps_per_epoch": 500, "optimizer": "adam", "learning_rate": 0.001,
    "weight_decay": 0.0, "image_size": 84, "label_smoothing": 0.0, "n_shot": 1, "normalization": "none",
    "augmentation": {"crop_padding": 0, "jitter": 0.0, "flip": False}, "keep_checkpoints": 5,
}  # fmt: skip


def test_an_unread_number_is_not_comparable(maker: Any) -> None:
    entry = maker.add(
        "cxgrad", 0.518, dataset="mini_imagenet", shots=(1,), selection="ensemble", batch_norm="transductive",
        backbone={"name": "conv4_maml", "filters": 48, "bias": False, "pooling": "max"},
        learner_settings={"inner_steps": 5, "inner_learning_rate": 0.01, "second_order": True},
    )  # fmt: skip
    verdict = judge(group_rows(read_runs(entry))[0])
    assert verdict.word == "not comparable"
    assert "unread source" in verdict.reasons


def test_a_quoted_number_gives_a_verdict_that_says_so(maker: Any) -> None:
    entry = maker.add(
        "cxgrad", 0.55, dataset="mini_imagenet", shots=(5,), selection="ensemble", batch_norm="transductive",
        backbone={"name": "conv4_maml", "filters": 48, "bias": False, "pooling": "max"},
        learner_settings={"inner_steps": 5, "inner_learning_rate": 0.01, "second_order": True},
        recipe={**CXGRAD, "n_shot": 5, "meta_batch": 2},
    )  # fmt: skip
    verdict = judge(group_rows(read_runs(entry))[0])
    assert (verdict.word, verdict.text) == ("lower", "lower, quoted")
    assert verdict.notes == ("quoted by an index of papers",)


def test_queries_in_bfloat16_are_named(maker: Any) -> None:
    entry = maker.add(
        "cxgrad", 0.55, dataset="mini_imagenet", shots=(5,), selection="ensemble", batch_norm="transductive",
        backbone={"name": "conv4_maml", "filters": 48, "bias": False, "pooling": "max"},
        learner_settings={
            "inner_steps": 5, "inner_learning_rate": 0.01, "second_order": True, "query_precision": "bfloat16",
        },
        recipe={**CXGRAD, "n_shot": 5, "meta_batch": 2},
    )  # fmt: skip
    verdict = judge(group_rows(read_runs(entry))[0])
    assert (verdict.word, verdict.reasons) == (
        "not comparable", ("query pass in training: bfloat16, published float32",)
    )  # fmt: skip


def test_a_quoted_number_names_who_quotes_it() -> None:
    with pytest.raises(ValidationError, match="quoted_by"):
        Protocol(confirmed="quoted")
    quoted = [number for number in published_numbers() if number.protocol.confirmed == "quoted"]
    assert all(number.protocol.quoted_by in number.cited for number in quoted)
    assert len(quoted) > 20


def test_an_unknown_cell_has_no_published_number(maker: Any) -> None:
    assert judge(row_of(maker, 0.6, dataset="glyphs")).word == "none published"
    assert judge(row_of(maker, 0.6, shot=3)).word == "none published"


def test_an_untrained_learner_is_not_the_published_method(maker: Any) -> None:
    assert judge(row_of(maker, 0.3, recipe={"epochs": 0})).word == "none published"


def test_the_difference_adds_both_errors_and_the_deviation_of_both_runs(maker: Any) -> None:
    row, number = row_of(maker, 0.6264), table_1(62.64)
    gap = difference(row, number, 0.7)
    runs = stats.ErrorPart(1.03 * 0.007 * math.sqrt(2), 4).half_width(0.95)
    assert gap.mean == pytest.approx(row.estimate.mean - 0.6264)
    assert gap.ci95 == pytest.approx(math.hypot(row.estimate.ci95, 0.0061, runs), rel=1e-6)
    assert difference(row, number, 0.0).ci95 == pytest.approx(math.hypot(row.estimate.ci95, 0.0061), rel=1e-6)


def test_an_interval_over_seeds_covers_the_deviation_of_the_published_runs(maker: Any) -> None:
    row, number = row_of(maker, 0.6264), table_1(62.64)
    over_seeds = number.model_copy(update={"protocol": number.protocol.model_copy(update={"interval": "seeds"})})
    ours = stats.ErrorPart(1.03 * 0.007, 4).half_width(0.95)
    expected = math.hypot(row.estimate.ci95, 0.0061, ours)
    assert difference(row, over_seeds, 0.7).ci95 == pytest.approx(expected, rel=1e-6)


def test_a_binomial_interval_is_replaced_by_ours_scaled_to_its_number_of_episodes(maker: Any) -> None:
    row, number = row_of(maker, 0.6264), table_1(62.64)
    protocol = number.protocol.model_copy(update={"interval": "predictions", "episodes": 15})
    gap = difference(row, number.model_copy(update={"protocol": protocol}), 0.0)
    assert gap.ci95 == pytest.approx(math.hypot(row.estimate.ci95, 2 * row.estimate.ci95), rel=1e-6)


def test_several_seeds_of_ours_sharpen_the_assumed_deviation_between_runs(maker: Any) -> None:
    """The assumption has 4 degrees of freedom, as the estimate from 5 runs has; the two are averaged."""
    row, number = row_of(maker, 0.6264, seeds=5), table_1(62.64)
    ours = stats.run_deviation(row.accuracies)
    assert ours is not None
    deviation = math.sqrt(((1.03 * 0.007) ** 2 + ours.std_error**2) / 2)
    scatter = difference(row, number, 0.7).parts[-1]
    assert scatter.std_error == pytest.approx(deviation * math.sqrt(1 + 1 / 5))
    assert scatter.dof == 4


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
    assert len(numbers) == 290
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
        ("RFS", "cifar_fs", 5, "classifier", "resnet12", 86.0, 0.5),
        ("SimpleShot", "mini_imagenet", 1, "classifier", "conv4", 49.69, 0.19),
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
        assert set(number.training or {}) <= {*Recipe.model_fields, "batch_norm_episodes"}


def test_numbers_are_shown_as_in_the_source() -> None:
    text = PUBLISHED_FILE.read_text(encoding="utf-8")
    assert [number.text for number in published_numbers() if number.text not in text] == []
    assert any(number.text == "72.0 ± 0.6" for number in published_numbers())
