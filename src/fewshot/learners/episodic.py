"""Episodic learner: a backbone embeds all images, and a head classifies the queries of each episode.

Details the papers leave open, and where each choice comes from:
  * Support and query are embedded in separate calls, so each has its own batch-norm statistics in training (MetaOptNet
    release); `joint_forward` embeds them in a single call.
  * Label smoothing spreads epsilon over the M - 1 wrong classes (MetaOptNet release), not over all M as torch does.
  * The head's learnable scale is trained with the backbone, by the same optimiser.
  * With `precision: bfloat16`, only the backbone runs in bfloat16; the head receives float32 embeddings.

Shapes: T episodes, M ways, S support images, Q query images in all, d features.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot.backbones import build_backbone
from fewshot.backbones.base import Backbone, check_embeddings, check_module, embedding_size, has_lazy_weights
from fewshot.backbones.settings import Pooling
from fewshot.episodes.batch import EpisodeBatch
from fewshot.errors import ParamsError
from fewshot.heads import build_head
from fewshot.heads.base import Head
from fewshot.learners.base import Learner, LearnerContext, LossOutput
from fewshot.learners.context import DEFAULT_CONTEXT, check_head_changes
from fewshot.learners.memory import map_bytes
from fewshot.learners.settings import EvaluationSettings
from fewshot.settings import Settings


class EpisodicLearner(Learner):
    """Backbone and head trained end to end, episode by episode.

    Args:
        backbone: any module (N, C, H, W) -> (N, d).
        head: module called as `head(support, support_labels, query, n_way=M)` on embeddings; returns scores (T, Q, M).
        context: label smoothing, precision etc., see `LearnerContext`.

    Raises:
        TypeError: if the backbone is not a module.
        ParamsError: if a backbone with lazy layers does not embed images of the context's size.

    >>> import torch
    >>> from torch import nn
    >>> from fewshot.episodes import EpisodeBatch
    >>> from fewshot.heads import build_head
    >>> from fewshot.learners import EpisodicLearner, LearnerContext
    >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    >>> learner = EpisodicLearner(backbone, build_head("ridge"), LearnerContext(n_way=2, image_size=16))

    Four episodes, 2-way 1-shot, with three queries per class; one outer step of training, then scores of the queries:

    >>> support, support_labels = torch.rand(4, 2, 3, 16, 16), torch.tensor([0, 1]).expand(4, -1)
    >>> query, query_labels = torch.rand(4, 6, 3, 16, 16), torch.tensor([0, 0, 0, 1, 1, 1]).expand(4, -1)
    >>> batch = EpisodeBatch(support, support_labels, query, query_labels, torch.arange(4), n_way=2)
    >>> optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    >>> learner.loss(batch, step=0).loss.backward()
    >>> optimizer.step()
    >>> learner.eval().logits(batch).shape
    torch.Size([4, 6, 2])
    """

    caches_embeddings = True

    def __init__(self, backbone: nn.Module, head: nn.Module, context: LearnerContext = DEFAULT_CONTEXT) -> None:
        super().__init__()
        check_module(backbone)
        if has_lazy_weights(backbone):
            embedding_size(backbone, context.image_size)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.head = head
        self.context = context
        self._compiled: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def build(
        cls, name: str, settings: Settings, backbone: str, backbone_settings: dict[str, Any], context: LearnerContext
    ) -> "EpisodicLearner":
        """Return the learner with the head `name`; see `fewshot.learners.build_learner`."""
        network = build_backbone(backbone, image_size=context.image_size, **backbone_settings)
        return cls(network, build_head(name, **settings.model_dump()), context)

    @property
    def trained_backbone(self) -> nn.Module:
        """The backbone."""
        return self.backbone

    @property
    def embedding_size(self) -> int:
        """Number of features: the backbone's `embedding_size`, or determined by embedding blank images."""
        return embedding_size(self.backbone, self.context.image_size)

    @property
    def recordable(self) -> bool:
        """Whether backbone and head are this project's, and the head needs no values on the host."""
        return isinstance(self.backbone, Backbone) and isinstance(self.head, Head) and self.head.recordable

    def set_step(self, step: int) -> None:
        """Set the global outer step (from 0) of the backbone."""
        if isinstance(self.backbone, Backbone):
            self.backbone.set_step(step)

    def loss(self, batch: EpisodeBatch, step: int) -> LossOutput:
        """Return the label-smoothed cross-entropy over all query images at global outer step `step` (from 0)."""
        self.set_step(step)
        support, query = self._embed_both(batch.support_images, batch.query_images)
        logits = self.classify(support, batch.support_labels, query, batch.n_way)
        loss = smoothed_cross_entropy(logits, batch.query_labels, self.context.label_smoothing)
        hits = logits.detach().argmax(-1) == batch.query_labels
        return LossOutput(loss, hits.float().mean())

    def logits(self, batch: EpisodeBatch) -> Tensor:
        """Return the scores of the query images, (T, Q, M), without a graph."""
        with torch.no_grad():
            support, query = self._embed_both(batch.support_images, batch.query_images)
            return self.classify(support, batch.support_labels, query, batch.n_way)

    def embed(self, images: Tensor) -> Tensor:
        """Return embeddings (N, d) of preprocessed images (N, C, H, W), in their dtype."""
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.context.precision == "bfloat16"):
            embeddings = self._compiled_backbone()(images) if self._compiles(images) else self.backbone(images)
        check_embeddings(embeddings)
        return embeddings.to(images.dtype)

    def _compiles(self, images: Tensor) -> bool:
        return self.context.compile and self.training and images.is_cuda

    def _compiled_backbone(self) -> Callable[[Tensor], Tensor]:
        """Return the backbone's forward pass, compiled on first use for each number of images."""
        if self._compiled is None:
            self._compiled = torch.compile(self.backbone.forward, dynamic=False)
        return self._compiled

    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return scores (T, Q, M) from embeddings (T, S, d), labels (T, S) and embeddings (T, Q, d)."""
        return self.head(support, support_labels, query, n_way=n_way)

    def for_evaluation(self, changes: EvaluationSettings) -> "EpisodicLearner":
        """Return a learner with the same weights (shared) and another head, settings of the head, or pooling."""
        check_head_changes(type(self).__name__, changes)
        head = head_for_evaluation(self.head, changes.head, changes.head_settings)
        head.to(next(self.parameters(), torch.empty(0)).device)
        backbone = backbone_for_evaluation(self.backbone, changes.pooling)
        return EpisodicLearner(backbone, head, self.context).train(self.training)

    def take_certificates(self) -> dict[str, np.ndarray]:
        """Return the head's solver reports on each episode since the last call; {} for closed-form heads."""
        take = getattr(self.head, "take_certificates", None)
        return take() if take is not None else {}

    def estimate_step_bytes(self, *, n_shot: int, n_query: int, episodes: int) -> int:
        """Return the memory an outer step needs, excluding the program itself, bytes (within a factor of 2).

        Counts the feature maps that autograd keeps and a third as much for gradients at the peak (measured), and the
        weights with their gradients, two optimiser states and two copies in the convolutions' memory layout.

        Args:
            n_shot: support images per class.
            n_query: query images per class.
            episodes: episodes differentiated at once.
        """
        return self.estimate_bytes(images=episodes * self.context.n_way * (n_shot + n_query))

    def estimate_bytes(self, *, images: int) -> int:
        """Return the memory an outer step with so many images needs; see `estimate_step_bytes`."""
        per_image = map_bytes(self.backbone, getattr(self.backbone, "image_size", self.context.image_size))
        if self.context.precision == "bfloat16":
            per_image //= 2
        return images * per_image * 4 // 3 + 6 * sum(parameter.nbytes for parameter in self.parameters())

    def _embed_both(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Embed (T, S, C, H, W) and (T, Q, C, H, W); return (T, S, d) and (T, Q, d)."""
        if self.context.joint_forward:
            embeddings = self._embed_episodes(torch.cat([support, query], dim=1))
            return embeddings[:, : support.shape[1]], embeddings[:, support.shape[1] :]
        return self._embed_episodes(support), self._embed_episodes(query)

    def _embed_episodes(self, images: Tensor) -> Tensor:
        """Embed (T, N, C, H, W); return (T, N, d)."""
        return self.embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def backbone_for_evaluation(trained: nn.Module, pooling: Pooling | None) -> nn.Module:
    """Return the trained backbone, or one with its weights and another pooling."""
    if pooling is None:
        return trained
    if not isinstance(trained, Backbone):
        raise ParamsError(f"pooling applies to a backbone of fewshot.backbones, not {type(trained).__name__}")
    return trained.with_pooling(pooling)


def head_for_evaluation(trained: nn.Module, name: str | None, settings: Mapping[str, Any]) -> nn.Module:
    """Return the trained head, or another one with its learned scale."""
    if name is None and not settings:
        return trained
    if name is not None:
        head: Head = build_head(name, **settings)
    elif isinstance(trained, Head):
        head = type(trained)(**{**trained.settings.model_dump(), **settings})
    else:
        raise ParamsError(
            f"head_settings apply to a head of fewshot.heads, not {type(trained).__name__}; name the head to use "
            "instead"
        )
    scale = getattr(trained, "scale", None)
    if isinstance(scale, nn.Parameter):
        head.scale = scale
    return head


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy with targets 1 - smoothing (true class) and smoothing / (M - 1) (other classes).

    Args:
        logits: (..., M).
        labels: (...) int64, 0 .. M-1.
        smoothing: epsilon, 0 <= epsilon < 1.

    Source: Lee et al., CVPR 2019, released code.
    """
    log_p = logits.log_softmax(-1)
    true = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if smoothing == 0:
        return -true.mean()
    others = (log_p.sum(-1) - true) / (logits.shape[-1] - 1)
    return -((1 - smoothing) * true + smoothing * others).mean()
