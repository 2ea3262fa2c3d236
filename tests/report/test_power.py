"""The verdicts of the default suite find faults: real glyphs, the shipped experiments with seed 0, one fault at a time.

Each learner is trained once; a fault of the evaluation changes the trained learner, or what it is given, by patching.
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
from fewshot.evaluation.evaluate import evaluate, evaluation_record, load_learners, write_evaluation
from fewshot.experiments.reader import read_params
from fewshot.heads import build_head, ridge
from fewshot.images.preprocess import Preprocess
from fewshot.learners.base import Learner
from fewshot.report.measure import group_rows, read_runs
from fewshot.report.published import expected_numbers
from fewshot.report.verdict import Verdict, judge_rows
from fewshot.training.devices import recorded_versions
from fewshot.training.state import Checkpoints
from fewshot.training.train import train
from fewshot.workflow.jobs import frozen_episodes, open_prepared, prepare_job, train_job
from fewshot.workflow.plan import EvaluateJob, Plan, make_plan
from fewshot.workflow.suite_report import suite_report

pytestmark = pytest.mark.slow

PARAMS = Path(__file__).parents[2] / "params.yaml"
RIDGE, SVM = "glyphs-conv4-ridge-quick-s0", "glyphs-conv4-svm-quick_svm-s0"
MAML = "glyphs-conv4_maml_16-maml_quick-quick_maml-s0"
CPU = torch.device("cpu")
N_QUERY = 15

Patch = pytest.MonkeyPatch
Fault = Callable[[Learner, Patch], None]
"""Changes a trained learner, or patches the library."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """The default suite in a folder of its own, with ridge, SVM and MAML trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("power"))
        suite = make_plan(read_params(PARAMS), "quickstart")
        for job in suite.prepare:
            prepare_job(job)
        for name in (RIDGE, SVM, MAML):
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


def verdicts(
    plan: Plan, name: str, out: Path, fault: Fault | None = None, weights: Path | None = None
) -> list[Verdict]:
    """Evaluate an experiment as its job does, and judge its rows."""
    job: EvaluateJob = plan.find("evaluate", name)
    store, episodes = open_prepared(job.prepare), frozen_episodes(job.prepare, job.episodes)
    learners = load_learners(job.experiment, weights or job.train.dir, CPU)
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            fault(learners["single"][0], patch)
        rows, arrays = evaluate(job.experiment, learners, store.split(job.settings["split"]), episodes, CPU)
    record = evaluation_record(
        job.experiment,
        key=job.key,
        train_key=job.train.key,
        settings=job.settings,
        data_hash=store.content_hash,
        episodes=episodes,
        batch_norm=learners["single"][0].batch_norm,
        rows=rows,
        versions=recorded_versions(),
    )
    write_evaluation(out, job.target, record, arrays)
    entry = next(entry for entry in suite_report(plan).entries if entry.experiment == name)
    entry = replace(entry, evaluation=out / f"{job.target}.json")
    return judge_rows(group_rows(read_runs(entry)), expected_numbers(), plan.params.report)


def tenth_of_lambda(learner: Any, patch: Patch) -> None:
    """Test ridge regression with a tenth of its lambda."""
    settings = learner.head.settings
    patch.setattr(learner.head, "settings", settings.model_copy(update={"ridge": settings.ridge / 10}))


def ridge_for_svm(learner: Any, patch: Patch) -> None:
    """Test with ridge regression what was trained with the SVM."""
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
    """Adapt with one inner step; two were trained."""
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


FAULTS: dict[str, tuple[str, Fault | None]] = {
    "gradient through the solve dropped": (RIDGE, None),
    "a tenth of lambda at test": (RIDGE, tenth_of_lambda),
    "SVM tested as ridge regression": (SVM, ridge_for_svm),
    "fifth support image ignored": (RIDGE, fifth_support_image_ignored),
    "a quarter of the features lost": (RIDGE, quarter_of_features_lost),
    "one inner step instead of two": (MAML, one_inner_step),
    "labels of a class shifted": (RIDGE, labels_of_a_class_shifted),
    "test images mirrored": (RIDGE, mirrored_test_images),
}
FOUND = {"lower", "higher"}


@pytest.fixture(scope="module")
def judged(plan: Plan, without_gradient: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Verdict]]:
    """The verdicts with each fault."""
    out = tmp_path_factory.mktemp("faults")
    return {
        name: verdicts(plan, experiment, out / name, fault, without_gradient if fault is None else None)
        for name, (experiment, fault) in FAULTS.items()
    }


@pytest.mark.parametrize("name", ["labels of a class shifted", "test images mirrored"])
def test_a_gross_fault_is_found_at_every_shot(judged: dict[str, list[Verdict]], name: str) -> None:
    assert [verdict.word for verdict in judged[name]] == ["lower", "lower"]


@pytest.mark.xfail(
    strict=True,
    reason="one run finds 3 of 8: runs of ridge regression deviate by 0.5 points between seeds, SVM and MAML by more, "
    "and five faults change accuracy by 0.1 to 6 points",
)
def test_at_least_seven_of_eight_faults_are_found(judged: dict[str, list[Verdict]]) -> None:
    missed = []
    for name, found in judged.items():
        if not FOUND & {verdict.word for verdict in found}:
            differences = [f"{100 * d.mean:+.2f} ± {100 * d.ci95:.2f}" for v in found if (d := v.difference)]
            missed.append(f"{name}: {', '.join(differences)}")
    assert len(missed) <= 1, "\n".join(missed)


@pytest.mark.parametrize("experiment", [RIDGE, SVM, MAML])
def test_a_run_without_a_fault_is_not_called_different(plan: Plan, experiment: str, tmp_path: Path) -> None:
    judged = verdicts(plan, experiment, tmp_path)
    assert all(verdict.is_comparable for verdict in judged)
    assert not FOUND & {verdict.word for verdict in judged}
