"""The outer step as the papers' programs take it, for comparison: the same network and the same number of images.

Re-created as follows:
  * Images: four worker processes (none in a tiny run) prepare the episodes of a step, one PIL image at a time, with
    torchvision's transforms in the papers' order, stacked and sent from pinned memory.
  * Network: torch's default layout and default arithmetic (TensorFloat-32 in convolutions), not compiled.
  * Heads: the SVM by the program's QP solver qpth, if it is installed; all others ours, which take little time.
  * MAML: one task after another; convolution, batch norm, leaky ReLU and max-pool in sequence; the graphs of all tasks
    are kept for one backward pass (`benchmarks.inner_loop`).
"""

import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from benchmarks.gpu.families import ADAPTIVE, EPISODIC, Scale, drawn_batch, label, random_store, trainings
from benchmarks.gpu.findings import Case, Outcome
from benchmarks.gpu.timing import median_seconds
from benchmarks.inner_loop import plain_task_loss
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fewshot.datasets.store import SplitStore
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.experiments.experiment import Experiment
from fewshot.heads import build_head
from fewshot.heads.svm import SvmHead
from fewshot.learners.base import Learner
from fewshot.learners.episodic import EpisodicLearner, smoothed_cross_entropy
from fewshot.learners.maml import MAML
from fewshot.training.optimizer import build_optimizer

WORKERS, TIMEOUT_S = 4, 60
QPTH = importlib.util.find_spec("qpth") is not None


def cases(scale: Scale) -> list[Case]:
    """Return the cases of this part."""
    experiments, found = trainings(), []
    for training in (*EPISODIC, *ADAPTIVE[:2]):
        experiment = scale.to(experiments[training])
        name = f"original loop, {label(experiment)}"
        found.append(Case("original", name, partial(time_original, scale, experiment, training)))
    return found


class Meta(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Meta-batches prepared image by image with PIL and torchvision."""

    def __init__(self, experiment: Experiment, split: SplitStore) -> None:
        import torchvision.transforms as T

        recipe, preprocess = experiment.recipe, preprocessing(experiment)
        augmentation = recipe.augmentation
        steps: list[Any] = []
        if augmentation.crop_padding:
            steps.append(T.RandomCrop(experiment.image_size, padding=augmentation.crop_padding))
        if augmentation.jitter:
            steps.append(T.ColorJitter(*[augmentation.jitter] * 3))
        if augmentation.flip:
            steps.append(T.RandomHorizontalFlip())
        steps += [T.ToTensor(), T.Normalize(preprocess.mean, preprocess.std)]
        self.experiment, self.split, self.transform = experiment, split, T.Compose(steps)

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return support images (T, S, C, H, W), their labels, query images and their labels."""
        torch.set_num_threads(1)
        batch = drawn_batch(self.experiment, self.split, step)
        support, query = self._prepared(batch.support_images), self._prepared(batch.query_images)
        return support, batch.support_labels, query, batch.query_labels

    def _prepared(self, images: Tensor) -> Tensor:
        pictures = images.flatten(0, 1).permute(0, 2, 3, 1).numpy()
        stacked = torch.stack([self.transform(Image.fromarray(picture)) for picture in pictures])
        return stacked.unflatten(0, images.shape[:2])


def time_original(scale: Scale, experiment: Experiment, training: str) -> Outcome:
    """Time the outer steps of the re-created program."""
    split = random_store(experiment.image_size, tiny=scale.tiny).split("train")
    on_gpu = scale.device.type == "cuda"
    workers = {} if scale.tiny else {"num_workers": WORKERS, "timeout": TIMEOUT_S}
    loader = DataLoader(Meta(experiment, split), batch_size=None, pin_memory=on_gpu, **workers)
    learner = initial_learner(experiment).to(scale.device).train()
    learner.to(memory_format=torch.contiguous_format)
    optimizer = build_optimizer(experiment.recipe, learner, torch.device("cpu"))  # without kernels for GPUs
    batches = endless(loader)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = True, False

    def take() -> float:
        support, labels, query, query_labels = (value.to(scale.device) for value in next(batches))
        optimizer.zero_grad()
        if isinstance(learner, EpisodicLearner):
            loss = episodic_loss(learner, support, labels, query, query_labels)
        else:
            assert isinstance(learner, MAML)
            tasks = zip(support, labels, query, query_labels, strict=True)
            loss = torch.stack([plain_task_loss(learner, *task) for task in tasks]).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    seconds = median_seconds(scale, take)
    solver = "qpth" if QPTH and solves(learner) else "ours"
    text = f"{1e3 * seconds:.1f} ms per step{f', solver {solver}' if solves(learner) else ''}"
    return text, None, {"training": training, "step_s": seconds, "solver": solver}


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield batches for ever."""
    while True:
        yield from loader


def episodic_loss(
    learner: EpisodicLearner, support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor
) -> Tensor:
    """Return MetaOptNet's loss of a meta-batch."""
    n_way = learner.context.n_way
    embedded = [learner.backbone(images.flatten(0, 1)).unflatten(0, images.shape[:2]) for images in (support, query)]
    scores = head_scores(learner, embedded[0], labels, embedded[1], n_way)
    return smoothed_cross_entropy(scores, query_labels, learner.context.label_smoothing)


def head_scores(learner: EpisodicLearner, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return the scores of the program's head: by qpth if it is installed."""
    if QPTH and solves(learner):
        head = build_head("svm", solver="qpth", max_iterations=15).to(support.device)
        return head(support, labels, query, n_way=n_way)
    return learner.head(support, labels, query, n_way=n_way)


def solves(learner: Learner) -> bool:
    """Return whether the head solves a quadratic program."""
    return isinstance(learner, EpisodicLearner) and isinstance(learner.head, SvmHead)
