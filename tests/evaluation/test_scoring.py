"""Scores from cached embeddings equal those of each episode alone, in blocks of any size."""

import numpy as np
import pytest
import torch

from fewshot.episodes.batch import gather_batch
from fewshot.episodes.draw import EpisodeIndices, draw_episodes
from fewshot.episodes.form import EpisodeForm
from fewshot.errors import NumericalError
from fewshot.evaluation import scoring
from fewshot.evaluation.evaluate import evaluate, load_learners
from fewshot.evaluation.scoring import score_episodes
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.experiments.precision import FLAGS, as_evaluated
from fewshot.learners import MAML
from fewshot.training.state import Checkpoints
from fewshot.training.train import train

CPU = torch.device("cpu")
SHOTS = (1, 3)
EPISODIC = ["prototype", "ridge", "r2d2", "svm"]


@pytest.fixture(scope="module")
def episodes(tiny_store):
    return draw(tiny_store, 30)


def draw(store, count):
    sizes = store.split("test").class_sizes
    return draw_episodes(0, "test", np.arange(count), EpisodeForm(3, 3, 4), sizes)


def score(experiments, store, episodes, learners=None):
    learners = learners or [initial_learner(experiment) for experiment in experiments]
    return score_episodes(learners, store.split("test"), episodes, SHOTS, preprocessing(experiments[0]), CPU)


def logits_one_by_one(experiment, store, episodes, shot):
    """Return the scores (E, Q, M) of each episode in its own forward pass."""
    learner, split, preprocess = initial_learner(experiment).eval(), store.split("test"), preprocessing(experiment)
    rows = []
    for number in range(len(episodes.ids)):
        raw = gather_batch(split.images, split.class_starts, episodes.take(slice(number, number + 1)), shot)
        rows.append(learner.logits(preprocess(raw, training=False)))
    return torch.cat(rows)


@pytest.mark.parametrize("learner", EPISODIC)
@pytest.mark.parametrize("shot", SHOTS)
def test_cached_embeddings_give_the_logits_of_separate_episodes(learner, shot, tiny_experiment, tiny_store, episodes):
    experiment = tiny_experiment(learner)
    model, split = initial_learner(experiment).eval(), tiny_store.split("test")

    with torch.no_grad():
        cached = scoring._Models([model], split, preprocessing(experiment), CPU).classified(episodes, [shot])
        found = torch.cat([logits for _, logits in cached])

    torch.testing.assert_close(found, logits_one_by_one(experiment, tiny_store, episodes, shot), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("learner", "backbone"), [("prototype", "conv4"), ("ridge", "pixels"), ("maml", "conv4_maml")])
def test_accuracies_equal_those_of_separate_episodes(learner, backbone, tiny_experiment, tiny_store, episodes):
    experiment = tiny_experiment(learner, backbone)

    scores = score([experiment], tiny_store, episodes)

    for shot in SHOTS:
        answers = logits_one_by_one(experiment, tiny_store, episodes, shot).argmax(-1).numpy()
        assert np.array_equal(scores[shot].predictions, answers)
        assert np.array_equal(scores[shot].accuracies, (answers == np.repeat([0, 1, 2], 4)).mean(1))


@pytest.mark.parametrize(
    "sizes",
    [
        {"EMBEDDING_BYTES": 1},
        {"EMBEDDING_BYTES": 7 * 4 * 16 * 21},
        {"CLASSIFY_BYTES": 1},
        {"CLASSIFY_BYTES": 2000},
        {"IMAGES_PER_FORWARD": 5},
        {"EMBEDDING_BYTES": 2000, "CLASSIFY_BYTES": 1, "IMAGES_PER_FORWARD": 1},
    ],
    ids=str,
)
def test_blocks_change_nothing(sizes, tiny_experiment, tiny_store, episodes, monkeypatch):
    experiment = tiny_experiment("ridge")
    whole = score([experiment], tiny_store, episodes)
    for name, value in sizes.items():
        monkeypatch.setattr(scoring, name, value)

    cut = score([experiment], tiny_store, episodes)

    for shot in SHOTS:
        assert np.array_equal(cut[shot].predictions, whole[shot].predictions)


AUGMENTATION = {"augmentation": {"crop_padding": 2, "jitter": 0.4, "flip": True}}


def score_augmented(experiment, store, episodes, shots, copies=3):
    learner, split = initial_learner(experiment), store.split("test")
    return score_episodes([learner], split, episodes, shots, preprocessing(experiment), CPU, augmented_support=copies)


@pytest.mark.parametrize("shot", SHOTS)
def test_augmented_support_is_that_many_augmentations_of_each_image(shot, tiny_experiment, tiny_store, episodes):
    experiment, split, copies = tiny_experiment("ridge", recipe=AUGMENTATION), tiny_store.split("test"), 3
    learner, preprocess = initial_learner(experiment).eval(), preprocessing(experiment)
    raw = gather_batch(split.images, split.class_starts, episodes, shot)
    images = raw.support_images.unflatten(1, (3, shot)).swapaxes(1, 2).flatten(1, 2).repeat_interleave(copies, 1)
    support = preprocess.episodes(images, "tested support", episodes.ids, training=True)
    labels = torch.arange(3).repeat(shot).repeat_interleave(copies).expand(len(support), -1)
    query = preprocess(raw, training=False).query_images
    with torch.no_grad():
        embedded = [learner.embed(part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in (support, query)]
        expected = learner.classify(embedded[0], labels, embedded[1], 3).argmax(-1)

    found = score_augmented(experiment, tiny_store, episodes, [shot], copies)

    assert np.array_equal(found[shot].predictions, expected.numpy())
    assert not np.array_equal(found[shot].predictions, score([experiment], tiny_store, episodes)[shot].predictions)


def test_augmentations_of_the_support_do_not_depend_on_the_other_shots_or_episodes(
    tiny_experiment, tiny_store, episodes, monkeypatch
):
    experiment = tiny_experiment("ridge", recipe=AUGMENTATION)
    whole = score_augmented(experiment, tiny_store, episodes, SHOTS)
    monkeypatch.setattr(scoring, "EMBEDDING_BYTES", 2000)
    monkeypatch.setattr(scoring, "IMAGES_PER_FORWARD", 40)

    for shot in SHOTS:
        alone = score_augmented(experiment, tiny_store, episodes, [shot])
        assert np.array_equal(alone[shot].predictions, whole[shot].predictions)


def test_blocks_of_adapted_episodes_change_nothing(tiny_experiment, tiny_store, episodes, monkeypatch):
    experiment = tiny_experiment("maml", "conv4_maml")
    whole = score([experiment], tiny_store, episodes)
    monkeypatch.setattr(scoring, "ADAPT_EPISODES", 7)

    cut = score([experiment], tiny_store, episodes)

    assert np.array_equal(cut[1].predictions, whole[1].predictions)


def test_scores_that_are_not_finite_are_an_error_that_names_the_episode(
    tiny_experiment, tiny_store, episodes, monkeypatch
):
    """As after a last inner step so large that the weights overflow."""
    finite = MAML.logits

    def overflowing(learner, batch):
        scores = finite(learner, batch)
        scores[batch.episode_ids == episodes.ids[9], 1] = float("inf")
        return scores

    monkeypatch.setattr(MAML, "logits", overflowing)
    monkeypatch.setattr(scoring, "ADAPT_EPISODES", 7)
    with pytest.raises(NumericalError, match="the scores of 1-shot episode 9 of the list are not finite"):
        score([tiny_experiment("maml", "conv4_maml")], tiny_store, episodes)


def test_fewer_episodes_are_a_prefix(tiny_experiment, tiny_store):
    long, short = (score([tiny_experiment()], tiny_store, draw(tiny_store, count)) for count in (30, 8))

    assert np.array_equal(long[1].accuracies[:8], short[1].accuracies)


def test_ensemble_averages_scores(tiny_experiment, tiny_store, episodes):
    experiments = [tiny_experiment("ridge", seed=seed) for seed in range(3)]

    scores = score(experiments, tiny_store, episodes)

    mean = torch.stack([logits_one_by_one(e, tiny_store, episodes, 3) for e in experiments]).mean(0)
    assert np.array_equal(scores[3].predictions, mean.argmax(-1).numpy())


def test_ensemble_of_three_identical_models_is_that_model(tiny_experiment, tiny_store, episodes):
    experiment = tiny_experiment("prototype")

    one, three = score([experiment], tiny_store, episodes), score([experiment] * 3, tiny_store, episodes)

    assert np.array_equal(one[1].predictions, three[1].predictions)


def test_certificates_have_one_value_per_episode(tiny_experiment, tiny_store, episodes):
    scores = score([tiny_experiment("svm")], tiny_store, episodes)

    assert all(values.shape == (30,) for values in scores[1].certificates.values())
    assert scores[1].certificates["converged"].all()


def test_gpus_evaluate_in_full_float32_with_deterministic_kernels(tiny_experiment, tiny_store, episodes):
    with as_evaluated():  # restores the flags
        for owner, flag, value in FLAGS:
            setattr(owner, flag, not value)
        experiment = tiny_experiment()

        evaluate(experiment, {"single": [initial_learner(experiment).eval()]}, tiny_store.split("test"), episodes, CPU)

        assert [getattr(owner, flag) for owner, flag, _ in FLAGS] == [False, False, True, False]


def test_evaluation_scores_the_best_state_and_the_ensemble(tiny_experiment, tiny_store, episodes, tmp_path):
    experiment = tiny_experiment(recipe={"keep_checkpoints": 2})
    for name in ("out", "checkpoints"):
        (tmp_path / name).mkdir()
    train(experiment, tiny_store, tmp_path / "out", Checkpoints(tmp_path / "checkpoints"))

    learners = load_learners(experiment, tmp_path / "out", CPU)
    rows, arrays = evaluate(experiment, learners, tiny_store.split("test"), episodes, CPU)

    assert [(row["selection"], row["shot"]) for row in rows] == [
        ("single", 1), ("single", 3), ("ensemble", 1), ("ensemble", 3),
    ]  # fmt: skip
    assert rows[0]["accuracy"] == arrays["accuracy/single/1shot"].mean()
    assert arrays["sheet/3shot/support_rows"].shape == (4, 9)
    assert arrays["sheet/3shot/predictions"].shape == (4, 12)


def test_labels_of_scores_follow_the_classes(tiny_experiment, tiny_store):
    episodes = draw(tiny_store, 4)
    swapped = EpisodeIndices(episodes.classes[:, ::-1], episodes.images[:, ::-1], 4, episodes.ids)

    straight, mirrored = (score([tiny_experiment()], tiny_store, item)[3] for item in (episodes, swapped))

    assert np.array_equal(straight.accuracies, mirrored.accuracies)
