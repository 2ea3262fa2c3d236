"""Settings of the gradient-based learners, defined without torch, because the plan reads them.

Defaults are those of the released CxGrad configurations unless a field says otherwise. A field with `exclude_if` is
recorded with a result only if it differs from its default, so that it does not change older results' settings.
"""

import operator
from typing import Any, ClassVar, Literal

from pydantic import Field

from fewshot.backbones.settings import Pooling
from fewshot.settings import Settings

BatchNormMode = Literal["transductive", "support", "per_query"]
QueryPrecision = Literal["float32", "bfloat16"]


class EvaluationSettings(Settings):
    """What may differ between the evaluation of a trained learner and its training; null: as in training."""

    head: str | None = Field(None, description="another head on the trained embedding (learners with a head only)")
    head_settings: dict[str, Any] = Field(
        {}, description="settings of that head; without head: changes to those of the trained head"
    )
    inner_steps: int | None = Field(
        None, ge=1, le=1000, description="gradient steps on the support set (gradient-based learners only)"
    )
    batch_norm: BatchNormMode | None = Field(
        None, description="statistics for query images (gradient-based learners only)"
    )
    l2: bool | None = Field(None, description="divide embeddings by their norm before the head (classifiers only)")
    centre: bool | None = Field(
        None, description="first subtract the mean embedding of the training classes (classifiers only)"
    )
    pooling: Pooling | None = Field(
        None,
        description="the embedding is the last map, flattened, or its mean (backbones with that setting only)",
    )
    augmented_support: int | None = Field(
        None,
        ge=1,
        le=100,
        description="fit the head to so many random augmentations of each support image, drawn as in training, instead "
        "of the image itself (RFS: 5; learners that embed each image alone)",
    )


class ClassifierSettings(Settings):
    """Settings of `classifier`; the head and the treatment of its features are used in validation and test only."""

    head: str = Field("prototype", description="head that classifies the episodes of validation and test")
    head_settings: dict[str, Any] = Field({}, description="settings of that head")
    l2: bool = Field(True, description="divide embeddings by their norm before the head (RFS, SimpleShot)")
    centre: bool = Field(
        False, description="before that, subtract the mean embedding of the training classes (SimpleShot: CL2N)"
    )
    n_classes: int | None = Field(
        None,
        ge=2,
        le=10**6,
        exclude_if=lambda n_classes: n_classes is None,
        description="classes of the training split; null: those the data set is known to have (give it for your own)",
    )


class CosineClassifierSettings(ClassifierSettings):
    """Settings of `baselinepp` (Chen et al., ICLR 2019)."""

    head: str = Field("cosine", description="head that classifies the episodes of validation and test")
    training_scale: float = Field(
        10.0, gt=0, le=1000, description="initial value of the learned factor of the cosines in training"
    )


class MAMLSettings(Settings):
    """Settings of `maml` (Finn et al., ICML 2017), which the other gradient-based learners share."""

    without_parameters_per_step: ClassVar[str] = "use a learner without per-step parameters"

    inner_steps: int = Field(5, ge=1, le=100, description="gradient steps on the support set")
    inner_learning_rate: float = Field(0.01, ge=0, le=100, description="step size of the inner loop")
    batch_norm: BatchNormMode = Field(
        "transductive",
        description="statistics for query images: of all queries (as in the released code), of the support set, or "
        "of each query image alone",
    )
    checkpoint_inner_steps: bool = Field(
        False, description="recompute each inner step in the outer backward pass: less memory, slower"
    )
    query_precision: QueryPrecision = Field(
        "float32",
        exclude_if=lambda precision: precision == "float32",
        description="of the convolutions of query images in training (conv4_maml only); bfloat16 is faster on CPUs "
        "with AMX, but the outer gradient is less exact (docs/departures.md, C30)",
    )
    second_order: bool = Field(True, description="differentiate through the inner gradients")
    first_order_epochs: int = Field(
        0, ge=0, le=10**6, description="first-order epochs before second order (derivative-order annealing, MAML++)"
    )

    @property
    def has_parameters_per_step(self) -> bool:
        """Whether the learner has parameters for each inner step, so that evaluation takes as many as training."""
        return False


class FOMAMLSettings(MAMLSettings):
    """Settings of `fomaml`: inner gradients are treated as constants (Finn et al., ICML 2017, section 5.2)."""

    second_order: Literal[False] = Field(False, description="always first order; for second order use maml")
    first_order_epochs: Literal[0] = Field(0, description="every epoch is first order; for annealing use maml")


class ANILSettings(MAMLSettings):
    """Settings of `anil` (Raghu et al., ICLR 2020)."""

    checkpoint_inner_steps: Literal[False] = Field(
        False, description="inner steps on the head alone are too small to be worth recomputing"
    )


class BOILSettings(MAMLSettings):
    """Settings of `boil` (Oh et al., ICLR 2021); defaults from the authors' script."""

    inner_steps: int = Field(1, ge=1, le=100, description="gradient steps on the support set")
    inner_learning_rate: float = Field(0.5, ge=0, le=100, description="step size of the inner loop (backbone only)")


class MAMLPlusPlusSettings(MAMLSettings):
    """Settings of `mamlpp` (Antoniou et al., ICLR 2019)."""

    without_parameters_per_step: ClassVar[str] = "turn off per_layer_rates and per_step_batch_norm"

    inner_learning_rate: float = Field(
        0.1, ge=0, le=100, description="step size of the inner loop; initial value with per_layer_rates (MAML++: 0.1)"
    )
    multi_step_loss_epochs: int = Field(
        15, ge=0, le=10**6, description="epochs in which the query loss after every inner step contributes; 0: never"
    )
    per_layer_rates: bool = Field(True, description="learn a rate for each adapted tensor and inner step (LSLR)")
    per_step_batch_norm: bool = Field(True, description="learn batch-norm weights and biases for each inner step")
    clamp_outer_gradient: float | None = Field(
        None,
        gt=0,
        exclude_if=lambda bound: bound is None,
        description="largest absolute value of each entry of the network's outer gradient (MAML++ on ImageNet sets: "
        "10); null: no limit",
    )

    @property
    def has_parameters_per_step(self) -> bool:
        """Whether rates or batch-norm weights are learned for each inner step."""
        return self.per_layer_rates or self.per_step_batch_norm


class ALFASettings(MAMLSettings):
    """Settings of `alfa` (Baik et al., NeurIPS 2020)."""

    inner_learning_rate: float = Field(0.01, ge=0, le=100, description="initial a of each tensor and step")
    inner_weight_decay: float = Field(5e-6, ge=0, le=1, description="initial b of each tensor and step")
    attenuate: bool = Field(False, description="shrink the initial weights for each task (L2F, CVPR 2020)")
    random_initialization: bool = Field(
        False,
        exclude_if=operator.not_,
        description="leave the network at its initial weights; learn only rates, decays and the generator",
    )

    @property
    def has_parameters_per_step(self) -> bool:
        """True: rates and decays are learned for each inner step."""
        return True


class CxGradSettings(MAMLPlusPlusSettings):
    """Settings of `cxgrad` (Lee et al., WACV 2022); the MAML++ additions are off by default."""

    inner_learning_rate: float = Field(0.01, ge=0, le=100, description="step size of the inner loop")
    multi_step_loss_epochs: int = Field(0, ge=0, le=10**6, description="as in mamlpp; 0: never")
    per_layer_rates: bool = Field(False, description="as in mamlpp")
    per_step_batch_norm: bool = Field(False, description="as in mamlpp")
    contextual: bool = Field(
        True,
        exclude_if=bool,
        description="false: a learned constant gamma for each convolution instead of the context and its generator",
    )
    context_size: int = Field(100, ge=1, le=10_000, description="length of the context vector")
    context_learning_rate: float = Field(1.0, ge=0, le=1000, description="step size of the context vector")
    norm_epsilon: float = Field(0.0, ge=0, le=1, description="added to the norm of each convolution (released code: 0)")
