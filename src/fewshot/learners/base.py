"""The learner interface: the training and evaluation loops depend on nothing else.

Shapes: T episodes, M ways, S support images, Q query images in all, C x H x W, d features.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from fewshot.episodes.batch import EpisodeBatch
from fewshot.errors import ParamsError
from fewshot.learners.context import LearnerContext
from fewshot.learners.settings import EvaluationSettings

__all__ = ["EvaluationSettings", "Learner", "LearnerContext", "LossOutput"]


@dataclass(frozen=True)
class LossOutput:
    """Result of a training forward pass.

    Attributes:
        loss: scalar, mean over the episodes, or images, of the batch; carries the graph.
        accuracy: scalar 0..1, mean over all query images, or images, detached.
    """

    loss: Tensor
    accuracy: Tensor


class Learner(nn.Module):
    """Base class of learners; all `parameters()` are trained by the outer optimiser.

    Attributes:
        caches_embeddings: true if an image's embedding does not depend on its episode; evaluation then embeds each
            image once (`embed`) and classifies from stored embeddings (`classify`).
        centres_features: true if the learner must be told the mean embedding of the training classes
            (`set_feature_mean`).
        batch_norm: the statistics that normalise test images: "running", "transductive", "support" or "per_query".
    """

    caches_embeddings: ClassVar[bool] = False
    centres_features: ClassVar[bool] = False
    batch_norm: str = "running"

    @property
    def episodes_per_backward(self) -> int | None:
        """Number of episodes of a meta-batch, or images of a minibatch, differentiated at once; None means all."""
        return None

    @property
    def recordable(self) -> bool:
        """Whether an outer step queues the same operations every time, without reading values on the host.

        Such a step can be recorded on a GPU and replayed; `set_step` and `phase` are all that may depend on the step.
        """
        return False

    def set_step(self, step: int) -> None:
        """Set the global outer step (from 0) for schedules such as DropBlock's, before its loss is computed."""

    def phase(self, step: int) -> Hashable:
        """Return a value that differs between outer steps whose losses need other operations; see `recordable`."""
        return None

    @property
    def trained_backbone(self) -> nn.Module:
        """The network from which another training can start, and that can start from another one's."""
        raise NotImplementedError

    @property
    def embedding_size(self) -> int:
        """Number of features of an embedding (d); only if `caches_embeddings`."""
        raise NotImplementedError

    def estimate_step_bytes(self, *, n_shot: int, n_query: int, episodes: int) -> int | None:
        """Return a rough estimate of the memory an outer step needs, bytes; None if unknown.

        Args:
            n_shot: support images per class.
            n_query: query images per class.
            episodes: episodes differentiated at once.
        """
        return None

    def loss(self, batch: EpisodeBatch, step: int) -> LossOutput:
        """Return the outer loss of preprocessed (float) episodes at global outer step `step` (from 0).

        Learners registered with `minibatches` take an `fewshot.episodes.ImageBatch` instead of episodes.

        Raises:
            NumericalError: if an inner loss is not finite.
        """
        raise NotImplementedError

    def limit_gradients(self) -> None:
        """Limit the outer gradients, if the method does; the training loop calls this before the optimiser's step."""

    def logits(self, batch: EpisodeBatch) -> Tensor:
        """Return the scores of the query images, (T, Q, M), in evaluation mode; no outer graph is kept."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """Return embeddings (N, d) of preprocessed images (N, C, H, W); only if `caches_embeddings`."""
        raise NotImplementedError

    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return scores (T, Q, M) from embeddings (T, S, d), labels (T, S), (T, Q, d); only if `caches_embeddings`."""
        raise NotImplementedError

    def set_feature_mean(self, mean: Tensor) -> None:
        """Take the mean embedding of the training classes, (d,); only if `centres_features`."""
        raise NotImplementedError

    def for_evaluation(self, changes: EvaluationSettings) -> "Learner":
        """Return a learner with the same weights (shared, not copied) that is evaluated with other settings.

        Without changes it gives the same logits. A replaced head takes over the learned scale of the trained one: the
        scale (positive in practice) does not affect which class has the largest score, and so the accuracy of a single
        model; in an ensemble it weighs the members as in training.

        Raises:
            ParamsError: if a change is unknown, out of range, or does not fit the learner.
        """
        if changes != EvaluationSettings():
            raise ParamsError(f"{type(self).__name__} cannot be evaluated with settings other than those of training")
        return self

    def take_certificates(self) -> dict[str, np.ndarray]:
        """Return and clear the solver reports on each episode since the last call: name -> (episodes,)."""
        return {}

    def diagnose(self, batch: EpisodeBatch) -> dict[str, np.ndarray]:
        """Return arrays describing the adaptation to each episode, first axis T; {} if the learner does not adapt."""
        return {}
