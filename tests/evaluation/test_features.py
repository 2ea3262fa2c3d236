"""Heads on given features: the same numbers as the evaluation of a learner on the same episodes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fewshot.episodes import EpisodeForm, draw_episodes
from fewshot.errors import DataError, NumericalError
from fewshot.evaluation import evaluate_head, mean_ci95
from fewshot.evaluation.scoring import embed_rows, score_episodes
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.heads import build_head

CPU = torch.device("cpu")
FORM = {"n_way": 3, "n_shot": 3, "n_query": 4}


@pytest.fixture(params=["prototype", "ridge", "svm"])
def learner_and_features(request, tiny_experiment, tiny_store):
    """A learner with its preprocessing, and its embeddings of the test split in the order of the store."""
    experiment, split = tiny_experiment(request.param), tiny_store.split("test")
    learner, preprocess = initial_learner(experiment).eval(), preprocessing(experiment)
    return learner, preprocess, embed_rows(learner, split, np.arange(len(split)), preprocess, CPU)


def test_accuracies_equal_those_of_the_learner_on_the_same_episodes(learner_and_features, tiny_store):
    learner, preprocess, features = learner_and_features
    split = tiny_store.split("test")
    episodes = draw_episodes(7, "test", np.arange(30), EpisodeForm(**FORM), split.class_sizes)

    found = evaluate_head(learner.head, features, split.labels, **FORM, episodes=30, seed=7)

    expected = score_episodes([learner], split, episodes, [3], preprocess, CPU)[3].accuracies
    assert np.array_equal(found.accuracies, expected)
    assert (found.accuracy, found.ci95) == mean_ci95(expected)


def test_rows_may_be_in_any_order_and_labels_any_integers():
    labels = np.repeat([2, 30, -4, 11], 20)
    features = np.random.default_rng(0).normal(size=(80, 6)) + labels[:, None] / 10
    mixed = np.arange(80).reshape(4, 20).T.ravel()  # keeps the order within each class

    ordered, shuffled = (
        evaluate_head(build_head("ridge"), features[rows], labels[rows], n_way=4, n_query=5, episodes=20)
        for rows in (np.arange(80), mixed)
    )

    assert 0.3 < ordered.accuracy < 1
    assert np.array_equal(ordered.accuracies, shuffled.accuracies)


def test_arrays_and_tensors_give_the_same():
    labels = torch.arange(5).repeat(20)
    features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))

    tensors, arrays = (
        evaluate_head(build_head("prototype"), x, y, episodes=10)
        for x, y in ((features, labels), (features.numpy(), labels.numpy()))
    )

    assert np.array_equal(tensors.accuracies, arrays.accuracies)


def test_features_without_information_are_classified_by_chance():
    features = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)

    found = evaluate_head(build_head("prototype"), features, np.arange(200) % 8, episodes=400)

    assert found.accuracy == pytest.approx(0.2, abs=0.02)
    assert repr(found) == f"{100 * found.accuracy:.2f} ± {100 * found.ci95:.2f} %"


def test_the_mode_of_the_head_is_restored():
    head, labels = build_head("prototype").train(), np.arange(100) % 5

    evaluate_head(head, np.ones((100, 3), np.float32), labels, episodes=2)

    assert head.training


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (np.zeros((100, 3, 1)), np.arange(100) % 5, "floats \\(N, d\\)"),
        (np.zeros((100, 3), int), np.arange(100) % 5, "floats \\(N, d\\)"),
        (np.zeros((100, 3)), np.arange(90) % 5, "one per row"),
        (np.zeros((100, 3)), np.zeros(100), "integers"),
        (np.zeros((100, 3)), np.arange(100) % 4, "lower n_way"),
        (np.zeros((100, 3)), np.arange(100) % 10, "lower n_shot or n_query"),
    ],
)
def test_unusable_features_are_refused(features, labels, words):
    with pytest.raises(DataError, match=words):
        evaluate_head(build_head("prototype"), features, labels)


def test_importing_the_package_does_not_import_torch():
    code = "import sys; import fewshot.evaluation; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("kind", [list, np.array, lambda names: np.array(names, dtype=object)])
def test_labels_may_be_names(kind):
    numbers = np.arange(100) % 5
    features = np.random.default_rng(0).normal(size=(100, 4)) + numbers[:, None]

    by_number, by_name = (
        evaluate_head(build_head("prototype"), features, labels, episodes=10)
        for labels in (numbers, kind([f"class {number}" for number in numbers]))
    )

    assert np.array_equal(by_number.accuracies, by_name.accuracies)


@pytest.mark.filterwarnings("error")
def test_read_only_and_reversed_arrays_are_taken():
    features, labels = np.random.default_rng(0).normal(size=(100, 4)), np.arange(100) % 5
    features.setflags(write=False)

    found = evaluate_head(build_head("prototype"), features[::-1], labels[::-1], episodes=5)

    copied = evaluate_head(build_head("prototype"), features[::-1].copy(), labels[::-1].copy(), episodes=5)
    assert np.array_equal(found.accuracies, copied.accuracies)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_way": 0}, "n_way is 0; allowed: an integer, 1 or more"),
        ({"n_way": 5.0}, "n_way is 5.0"),
        ({"n_shot": 0}, "n_shot is 0"),
        ({"n_query": -1}, "n_query is -1"),
        ({"episodes": 0}, "episodes is 0"),
        ({"episodes": 1.5}, "episodes is 1.5"),
        ({"seed": 1.5}, "seed is 1.5; allowed: an integer"),
        ({"seed": None}, "seed is null"),
    ],
)
def test_impossible_episodes_are_refused(arguments, words):
    with pytest.raises(DataError, match=words):
        evaluate_head(build_head("prototype"), np.ones((100, 3)), np.arange(100) % 5, **arguments)


class ConstantHead(nn.Module):
    """Gives every class the same score; more columns than classes if asked."""

    def __init__(self, value, extra=0):
        super().__init__()
        self.value, self.extra = value, extra

    def forward(self, support, support_labels, query, n_way):
        return torch.full((*query.shape[:2], n_way + self.extra), self.value)


@pytest.mark.parametrize(
    ("head", "error", "words"),
    [
        (ConstantHead(float("nan")), NumericalError, "scores that are not finite"),
        (ConstantHead(0.0, extra=2), DataError, r"scores of shape \(2, 75, 7\); allowed: \(2, 75, 5\)"),
        ("svm", TypeError, "head is 'svm'; allowed: a torch module"),
    ],
)
def test_a_head_that_cannot_be_evaluated_is_refused(head, error, words):
    with pytest.raises(error, match=words):
        evaluate_head(head, np.ones((100, 3)), np.arange(100) % 5, episodes=2)


def test_no_values_have_no_interval():
    with pytest.raises(ValueError, match="no values"):
        mean_ci95([])
