"""The verdicts of the default suite find faults: real glyphs, the shipped experiments with seed 0, one fault at a time.

A fault of the evaluation changes a trained learner, or what it is given, by patching, in each experiment that runs the
faulty code. Learners that no fault touches are not trained here: they stand in the suite with exactly the accuracies
that are expected of them, so that they count as tests.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewshot.episodes.draw import class_labels
from fewshot.evaluation import scoring
from fewshot.evaluation.evaluate import evaluate, load_learners
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.reader import read_params
from fewshot.heads import build_head, ridge
from fewshot.images.preprocess import Preprocess
from fewshot.learners.base import Learner
from fewshot.report.coverage import planned_rows
from fewshot.report.expected_differences import expected_differences
from fewshot.report.expected_episodes import paired_accuracies
from fewshot.report.matching import closest
from fewshot.report.measure import Row
from fewshot.report.published import expected_numbers
from fewshot.report.verdict import Judgement, judge_suite
from fewshot.training.state import Checkpoints
from fewshot.training.train import train
from fewshot.workflow.jobs import frozen_episodes, open_prepared, prepare_job, train_job
from fewshot.workflow.plan import Plan, make_plan
from fewshot.workflow.planned_jobs import EvaluateJob

pytestmark = [pytest.mark.slow, pytest.mark.long]

PARAMS = Path(__file__).parents[2] / "params.yaml"
RIDGE, SVM = "glyphs-conv4-ridge-quick-s0", "glyphs-conv4-svm-quick_svm-s0"
RIDGE_HEADS = (RIDGE, "glyphs-conv4-ridge-quick-prototype_head-s0", "glyphs-conv4-ridge-quick-svm_head-s0")
SVM_SOLVERS = (SVM, "glyphs-conv4-svm-quick_svm-iterations_3-s0")
PIXELS = "glyphs-pixels-prototype-untrained-s0"
ANIL = "glyphs-conv4_maml_16-anil_quick-quick_anil-s0"
WITH_HEADS = (*RIDGE_HEADS, *SVM_SOLVERS, PIXELS)
CPU = torch.device("cpu")
N_QUERY = 15

Patch = pytest.MonkeyPatch
Fault = Callable[[Learner, Patch], None]
"""Changes a trained learner, or patches the library."""
Accuracies = dict[str, list[Row]]
"""Experiment -> its rows."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """The default suite in a folder of its own, with what the faults touch trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("power"))
        suite = make_plan(read_params(PARAMS), "quickstart")
        for job in suite.prepare:
            prepare_job(job)
        for name in (RIDGE, SVM, PIXELS, ANIL):
            train_job(suite.find("train", name), suite)
        yield suite


@pytest.fixture(scope="module")
def without_gradient(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of ridge regression trained without the gradient through its solve: the coefficients are constants."""
    job, out = plan.find("train", RIDGE), tmp_path_factory.mktemp("without-gradient")
    fit = ridge.ridge_fit

    def constant(*arguments: Any) -> tuple[Tensor, Any]:
        return fit(*arguments)[0], torch.zeros_like

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ridge, "ridge_fit", constant)
        train(job.experiment, open_prepared(job.prepare), out, Checkpoints(out / "checkpoints", 3600.0))
    return out


@pytest.fixture(scope="module")
def faultless(plan: Plan) -> Accuracies:
    """The rows of the default suite without a fault."""
    stand_ins = {job.name: stand_in(job.experiment) for job in plan.evaluate}
    return stand_ins | {name: measured(plan, name) for name in (*WITH_HEADS, ANIL)}


def stand_in(experiment: Experiment) -> list[Row]:
    """Return rows that replicate what is expected of an experiment exactly."""
    rows = []
    for planned in planned_rows(experiment):
        number = closest(planned, expected_numbers()).number
        assert number is not None
        assert number.episodes is not None
        empty = with_accuracies(planned, np.zeros(experiment.evaluate.episodes), number.episodes.episodes_hash)
        expected = paired_accuracies(empty, number)
        assert expected is not None
        rows.append(with_accuracies(planned, expected, number.episodes.episodes_hash))
    return rows


def measured(plan: Plan, name: str, fault: Fault | None = None, weights: Path | None = None) -> list[Row]:
    """Evaluate an experiment as its job does, and return its rows."""
    job: EvaluateJob = plan.find("evaluate", name)
    store, episodes = open_prepared(job.prepare), frozen_episodes(job.prepare, job.episodes)
    learners = load_learners(job.experiment, weights or job.train.dir, CPU)
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            fault(learners["single"][0], patch)
        results, arrays = evaluate(job.experiment, learners, store.split(job.settings["split"]), episodes, CPU)
    hashes = {result["shot"]: result["episodes_hash"] for result in results}
    return [
        with_accuracies(row, arrays[f"accuracy/single/{row.shot}shot"], hashes[row.shot])
        for row in planned_rows(job.experiment)
    ]


def with_accuracies(planned: Row, accuracies: np.ndarray, episodes_hash: str) -> Row:
    return Row((replace(planned.runs[0], accuracies=accuracies, episodes_hash=episodes_hash),))


def judge(plan: Plan, rows: Accuracies) -> Judgement:
    """Return the verdicts on the suite."""
    all_rows = [row for job in plan.evaluate for row in rows[job.name]]
    return judge_suite(all_rows, expected_numbers(), plan.params.report, expected_differences())


def tenth_of_lambda(learner: Any, patch: Patch) -> None:
    """Test ridge regression with a tenth of its lambda."""
    settings = learner.head.settings
    patch.setattr(learner.head, "settings", settings.model_copy(update={"ridge": settings.ridge / 10}))


def ridge_for_svm(learner: Any, patch: Patch) -> None:
    """Classify with ridge regression in place of the SVM, whatever its solver."""
    patch.setattr(learner, "head", build_head("ridge"))


def fifth_support_image_ignored(learner: Any, patch: Patch) -> None:
    """Fit the classifier to four of five support images per class."""
    classify = learner.classify

    def to_four(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        def first(images: Tensor) -> Tensor:
            return images.unflatten(1, (n_way, -1))[:, :, :4].flatten(1, 2)

        return classify(first(support), first(labels), query, n_way)

    patch.setattr(learner, "classify", to_four)


def quarter_of_features_lost(learner: Any, patch: Patch) -> None:
    """Set the last quarter of each embedding to zero."""
    embed = learner.embed

    def part(images: Tensor) -> Tensor:
        features = embed(images).clone()
        features[:, features.shape[1] * 3 // 4 :] = 0
        return features

    patch.setattr(learner, "embed", part)


def one_inner_step(learner: Any, patch: Patch) -> None:
    """Stop the inner loop after its first step."""
    patch.setattr(learner, "evaluation_steps", 1)


def labels_of_a_class_shifted(learner: Any, patch: Patch) -> None:
    """Count query images of the first class as the second."""

    def shifted(n_way: int, per_class: int) -> np.ndarray:
        labels = class_labels(n_way, per_class)
        return np.where(labels == 0, 1, labels) if per_class == N_QUERY else labels

    patch.setattr(scoring, "class_labels", shifted)


def mirrored_test_images(learner: Any, patch: Patch) -> None:
    """Mirror test images at random, as augmentation does in training."""
    images = Preprocess.images

    def flipped(self: Preprocess, stored: Any) -> Tensor:
        given = images(self, stored)
        mirrored = torch.rand(len(given), generator=torch.Generator().manual_seed(0)) < 0.5
        return torch.where(mirrored[:, None, None, None], given.flip(3), given)

    patch.setattr(Preprocess, "images", flipped)


FAULTS: dict[str, tuple[tuple[str, ...], Fault | None]] = {
    "gradient through the solve dropped": (RIDGE_HEADS, None),
    "a tenth of lambda at test": ((RIDGE,), tenth_of_lambda),
    "SVM tested as ridge regression": (SVM_SOLVERS, ridge_for_svm),
    "fifth support image ignored": (WITH_HEADS, fifth_support_image_ignored),
    "a quarter of the features lost": (WITH_HEADS, quarter_of_features_lost),
    "inner loop stopped after one step": ((ANIL,), one_inner_step),
    "labels of a class shifted": (WITH_HEADS, labels_of_a_class_shifted),
    "test images mirrored": (WITH_HEADS, mirrored_test_images),
}
FOUND = {"lower", "higher"}


@pytest.fixture(scope="module")
def judged(plan: Plan, faultless: Accuracies, without_gradient: Path) -> dict[str, Judgement]:
    """The verdicts with each fault."""
    return {
        name: judge(
            plan, faultless | {experiment: faulty(plan, experiment, fault, without_gradient) for experiment in touched}
        )
        for name, (touched, fault) in FAULTS.items()
    }


def faulty(plan: Plan, experiment: str, fault: Fault | None, without_gradient: Path) -> list[Row]:
    """Return the rows of an experiment with a fault of the evaluation, or with that of the training."""
    return measured(plan, experiment, fault, without_gradient if fault is None else None)


def found(judgement: Judgement) -> list[str]:
    """Return what is called different in a suite."""
    rows = [
        f"{number.table}, {number.shot}-shot: {verdict.word}"
        for verdict in judgement.rows
        if verdict.word in FOUND and (number := verdict.number)
    ]
    differences = [
        f"{verdict.expected.a} - {verdict.expected.b}: {verdict.word}"
        for verdict in judgement.differences
        if verdict.word in FOUND
    ]
    return [*rows, *differences]


def test_every_row_of_the_suite_is_a_test(plan: Plan, faultless: Accuracies) -> None:
    judgement = judge(plan, faultless)
    assert all(verdict.is_comparable for verdict in judgement.rows)
    assert len(judgement.differences) == len(expected_differences())


def test_a_run_without_a_fault_is_not_called_different(plan: Plan, faultless: Accuracies) -> None:
    assert found(judge(plan, faultless)) == []


@pytest.mark.parametrize("name", ["labels of a class shifted", "test images mirrored"])
def test_a_gross_fault_is_found_at_every_shot(judged: dict[str, Judgement], name: str) -> None:
    words = {(v.number.method, v.number.shot): v.word for v in judged[name].rows if v.number}
    assert [words[RIDGE.removesuffix("-s0"), shot] for shot in (1, 5)] == ["lower", "lower"]


def test_at_least_seven_of_eight_faults_are_found(judged: dict[str, Judgement]) -> None:
    missed = [name for name, judgement in judged.items() if not found(judgement)]
    assert len(missed) <= 1, missed
