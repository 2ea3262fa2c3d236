"""Evaluation from embeddings computed once, against a plain loop that embeds again for each episode, on one core.

Run from the root of the repository: python -m benchmarks.evaluation
"""

import time
from functools import partial

import numpy as np
import torch
import torchvision.transforms as T
from benchmarks.measure import table, write_section
from PIL import Image

from fewshot.datasets.store import SplitStore
from fewshot.episodes.draw import EpisodeIndices, class_labels, draw_episodes
from fewshot.episodes.form import EpisodeForm
from fewshot.evaluation.scoring import score_episodes
from fewshot.images.preprocess import Preprocess
from fewshot.learners import build_learner
from fewshot.learners.base import LearnerContext
from fewshot.learners.episodic import EpisodicLearner
from fewshot.training.allocator import keep_freed_memory

MEAN, STD, SIZE = (0.507, 0.486, 0.441), (0.267, 0.256, 0.276), 32
N_WAY, SHOTS, N_QUERY = 5, (1, 5), 15
CLASSES, IMAGES_PER_CLASS = 20, 600  # the form of the CIFAR-FS test split
EPISODES = (1_000, 10_000)
PAIRS, CHUNK = 50, 5  # episodes at both shots; timed in chunks, between the evaluations
HEADS = [
    ("prototype", {}, {}),
    ("ridge", {}, {}),
    ("r2d2", {}, {}),
    ("svm", {}, {}),
    ("svm", {}, {"solver": "qpth"}),
]


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # for both sides
    split = photographs()
    rows = [measure(split, *head) for head in HEADS]
    header = [
        "head",
        "in the plain loop",
        "plain loop, ms per pair",
        *(f"{n:,} episodes, times as fast" for n in EPISODES),
        f"accuracies of {PAIRS} pairs equal",
    ]
    write_section(
        "evaluation",
        "Evaluation",
        [
            f"All episodes of a test list at {SHOTS[0]} and {SHOTS[1]} shots ({N_WAY} ways, {N_QUERY} queries), conv4 "
            f"with 64 filters, {CLASSES} classes of {IMAGES_PER_CLASS} images of {SIZE} pixels: each image is embedded "
            "once, then the heads process many episodes at a time. The plain loop works like the MetaOptNet test "
            "program: one episode and one shot at a time, each image passed through PIL and torchvision transforms and "
            "embedded again in torch's default memory layout, with gradients enabled; the network and allocator are "
            "ours.",
            f"The plain loop was timed on {PAIRS} episode pairs (both shots) between the evaluations and scaled to "
            "their number: the cost of a pair does not depend on earlier ones. CPU time. The last row runs the "
            "original's solver in the loop, stopped after 3 iterations: a different classifier with different "
            "accuracies.",
            table(header, rows),
        ],
        packages=("torchvision", "numba"),
    )


def measure(split: SplitStore, name: str, settings: dict, loop_settings: dict) -> list[str]:
    """Time one head; return a row of the table."""
    learner, loop_learner = build(name, settings), build(name, loop_settings)
    loop_learner.to(memory_format=torch.contiguous_format)
    lists = [episode_list(split, n) for n in EPISODES]
    pairs = lists[0].take(slice(PAIRS))
    evaluate = partial(
        score_episodes, [learner], split, preprocess=Preprocess(SIZE, mean=MEAN, std=STD), device=torch.device("cpu")
    )
    evaluate(lists[0].take(slice(5)), shots=SHOTS)
    plain_pair(loop_learner, split, pairs, 0)

    seconds, plain_seconds, plain_accuracies, accuracies = [], 0.0, [], {}
    for episodes, part in zip(lists, np.array_split(np.arange(PAIRS), len(lists)), strict=True):
        start = time.process_time()
        scores = evaluate(episodes, shots=SHOTS)
        seconds.append(time.process_time() - start)
        accuracies = {shot: scores[shot].accuracies[:PAIRS] for shot in SHOTS}
        start = time.process_time()
        plain_accuracies += [plain_pair(loop_learner, split, pairs, i) for i in part]
        plain_seconds += time.process_time() - start

    per_pair = plain_seconds / PAIRS
    expected = np.array(plain_accuracies).T
    equal = all(np.array_equal(expected[k], accuracies[shot]) for k, shot in enumerate(SHOTS))
    assert equal or loop_settings != settings, f"{name}: the two give different accuracies"
    ratios = [f"**{per_pair * n / s:.0f}**" for n, s in zip(EPISODES, seconds, strict=True)]
    in_loop = "the same" if loop_settings == settings else ", ".join(f"{k}: {v}" for k, v in loop_settings.items())
    return [name, in_loop, f"{per_pair * 1000:.0f}", *ratios, "yes" if equal else "no"]


def plain_pair(learner: EpisodicLearner, split: SplitStore, episodes: EpisodeIndices, index: int) -> list[float]:
    """Classify one episode at both shots the plain way; return the accuracies."""
    transform = T.Compose([T.ToTensor(), T.Normalize(MEAN, STD)])
    accuracies = []
    for shot in SHOTS:
        rows = episodes.take(slice(index, index + 1)).rows(split.class_starts, shot)
        support, query = (
            torch.stack([transform(Image.fromarray(split.images[row])) for row in part[0]]) for part in rows
        )
        labels = torch.from_numpy(class_labels(N_WAY, shot))[None]
        logits = learner.head(learner.backbone(support)[None], labels, learner.backbone(query)[None], n_way=N_WAY)
        accuracies.append((logits[0].argmax(-1).numpy() == class_labels(N_WAY, N_QUERY)).mean())
    return accuracies


def build(name: str, settings: dict) -> EpisodicLearner:
    """Return an untrained learner; always the same weights."""
    torch.manual_seed(0)
    context = LearnerContext(n_way=N_WAY, image_size=SIZE, steps_per_epoch=1)
    return build_learner(name, backbone="conv4", context=context, **settings).eval()


def episode_list(split: SplitStore, n: int) -> EpisodeIndices:
    """Draw the first n episodes of a test list."""
    return draw_episodes(0, split.name, np.arange(n), EpisodeForm(N_WAY, max(SHOTS), N_QUERY), split.class_sizes)


def photographs() -> SplitStore:
    """Return a split of coarse random colours, enlarged, that differ by class in their mean."""
    random = np.random.default_rng(0)
    means = random.integers(60, 196, (CLASSES, 1, 4, 4, 3))
    coarse = means + random.integers(-60, 60, (CLASSES, IMAGES_PER_CLASS, 4, 4, 3))
    images = [
        np.asarray(Image.fromarray(image).resize((SIZE, SIZE)))
        for image in coarse.reshape(-1, 4, 4, 3).astype(np.uint8)
    ]
    sizes = np.full(CLASSES, IMAGES_PER_CLASS, dtype=np.int64)
    return SplitStore("test", np.stack(images), tuple(map(str, range(CLASSES))), sizes, ())


if __name__ == "__main__":
    main()
