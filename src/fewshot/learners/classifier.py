"""Classifier pre-training: the backbone and a linear layer over all training classes, without episodes.

In validation and test the linear layer is left out, and any head classifies the episodes from the embeddings.

Sources: Baseline and Baseline++ of Chen et al., ICLR 2019; SimpleShot (Wang et al., arXiv 1911.04623): nearest
centroids of centred and L2-normalised features; RFS (Tian et al., ECCV 2020): logistic regression on L2-normalised
features.

Details the papers leave open, or in which this differs from them:
  * Label smoothing spreads epsilon over the wrong classes, as for episodes (`smoothed_cross_entropy`).
  * The mean for centring is that of 50 images of each training class, without augmentation (SimpleShot: of all images).
  * Baseline and Baseline++ fit their classifier for the test by 100 epochs of SGD on the support images; here, as in
    the later papers, a head with a closed form or a unique optimum takes its place.
  * `baselinepp` learns one factor of the cosines; the released code fixes it at 2 and learns a norm for each class.
  * With `precision: bfloat16`, only the backbone runs in bfloat16.

Shapes: B images, C x H x W, d features, K training classes.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.backbones import build_backbone
from fewshot.backbones.base import Backbone, embedding_size
from fewshot.episodes.minibatch import ImageBatch
from fewshot.heads import build_head
from fewshot.heads.cosine import unit_vectors
from fewshot.learners.base import LearnerContext, LossOutput
from fewshot.learners.context import DEFAULT_CONTEXT, check_centring, check_classifier_changes
from fewshot.learners.episodic import (
    EpisodicLearner,
    backbone_for_evaluation,
    head_for_evaluation,
    smoothed_cross_entropy,
)
from fewshot.learners.settings import ClassifierSettings, CosineClassifierSettings, EvaluationSettings


class ClassifierLearner(EpisodicLearner):
    """Backbone and linear layer trained on minibatches; a head classifies the episodes of validation and test.

    Args:
        backbone: any module (N, C, H, W) -> (N, d).
        classes: layer (B, d) -> scores (B, K) of the training classes.
        head: as for `EpisodicLearner`; it is not trained.
        context: label smoothing, precision etc., see `LearnerContext`.
        l2: divide embeddings by their norm before the head.
        centre: before that, subtract `feature_mean`.

    Attributes:
        feature_mean: mean embedding of the training classes, (d,); set by the training loop after each epoch.
    """

    centres_features = True
    feature_mean: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        classes: nn.Module,
        head: nn.Module,
        context: LearnerContext = DEFAULT_CONTEXT,
        *,
        l2: bool = True,
        centre: bool = False,
    ) -> None:
        super().__init__(backbone, head.requires_grad_(False), context)
        self.classes = classes
        self.l2, self.centre = l2, centre
        self.register_buffer("feature_mean", torch.zeros(self.embedding_size))

    @classmethod
    def build(  # type: ignore[override]
        cls,
        name: str,
        settings: ClassifierSettings,
        backbone: str,
        backbone_settings: dict[str, Any],
        context: LearnerContext,
    ) -> "ClassifierLearner":
        """Return the learner; see `fewshot.learners.build_learner`."""
        network = build_backbone(backbone, image_size=context.image_size, **backbone_settings)
        n_classes = settings.n_classes or context.n_classes
        assert n_classes is not None  # `check_classifier`
        classes = cls.class_layer(network.embedding_size, n_classes, settings)
        head = build_head(settings.head, **settings.head_settings)
        return cls(network, classes, head, context, l2=settings.l2, centre=settings.centre)

    @staticmethod
    def class_layer(embedding_size: int, n_classes: int, settings: ClassifierSettings) -> nn.Module:
        """Return the layer that scores the training classes."""
        return nn.Linear(embedding_size, n_classes)

    @property
    def recordable(self) -> bool:
        """Whether the backbone is this project's; the head has no part in an outer step."""
        return isinstance(self.backbone, Backbone)

    def loss(self, batch: ImageBatch, step: int) -> LossOutput:  # type: ignore[override]
        """Return the label-smoothed cross-entropy over the training classes at global outer step `step` (from 0)."""
        self.set_step(step)
        scores = self.classes(self.embed(batch.images))
        loss = smoothed_cross_entropy(scores, batch.labels, self.context.label_smoothing)
        return LossOutput(loss, (scores.detach().argmax(-1) == batch.labels).float().mean())

    def set_feature_mean(self, mean: Tensor) -> None:
        """Take the mean embedding of the training classes, (d,)."""
        self.feature_mean.copy_(mean)

    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return scores (T, Q, M) from embeddings (T, S, d), labels (T, S) and embeddings (T, Q, d)."""
        return super().classify(self._treated(support), support_labels, self._treated(query), n_way)

    def for_evaluation(self, changes: EvaluationSettings) -> "ClassifierLearner":
        """Return a learner with the same weights (shared), and another head or treatment of the features."""
        check_classifier_changes(type(self).__name__, changes)
        centre = self.centre if changes.centre is None else changes.centre
        backbone = backbone_for_evaluation(self.backbone, changes.pooling)
        features = embedding_size(backbone, self.context.image_size)
        check_centring(type(self).__name__, centre, same_pooling=features == len(self.feature_mean))
        head = head_for_evaluation(self.head, changes.head, changes.head_settings).to(self.feature_mean.device)
        changed = type(self)(
            backbone,
            self.classes,
            head,
            self.context,
            l2=self.l2 if changes.l2 is None else changes.l2,
            centre=centre,
        )
        changed.feature_mean = self.feature_mean
        return changed.train(self.training)

    def estimate_step_bytes(self, *, n_shot: int, n_query: int, episodes: int) -> int:
        """Return the memory an outer step needs, as for episodes of one image; `episodes` counts images."""
        return self.estimate_bytes(images=episodes)

    def _treated(self, features: Tensor) -> Tensor:
        """Return features (T, n, d) as the head receives them."""
        if self.centre:
            features = features - self.feature_mean
        return unit_vectors(features) if self.l2 else features


class CosineClassifierLearner(ClassifierLearner):
    """Baseline++: the scores of the training classes are scaled cosines with a learned vector for each class."""

    @staticmethod
    def class_layer(embedding_size: int, n_classes: int, settings: ClassifierSettings) -> nn.Module:
        """Return the layer that scores the training classes."""
        assert isinstance(settings, CosineClassifierSettings)
        return CosineLayer(embedding_size, n_classes, settings.training_scale)


class CosineLayer(nn.Module):
    """Scores (B, K) = scale * cosine of the angle between an embedding (B, d) and the vector of each class (K, d).

    Args:
        embedding_size: d.
        n_classes: K.
        initial_scale: initial value of the learned factor.
    """

    def __init__(self, embedding_size: int, n_classes: int, initial_scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_classes, embedding_size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.scale = nn.Parameter(torch.tensor(initial_scale))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the scores (B, K) of embeddings (B, d)."""
        return self.scale * (unit_vectors(embeddings) @ unit_vectors(self.weight).T)
