"""What learners have to know of an experiment, and which parts go together. Free of torch, because the plan asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fewshot.backbones.settings import Conv4MAMLSettings
from fewshot.errors import ParamsError, did_you_mean
from fewshot.learners.settings import InnerLoopSettings

CONV4_MAML_STAGES = 4


@dataclass(frozen=True)
class LearnerContext:
    """What a learner has to know of the experiment beside its own settings.

    Attributes:
        n_way: classes of a training episode (fixes the size of a linear head).
        image_size: side of the square images, pixels.
        steps_per_epoch: outer steps an epoch (annealing by epoch is computed from the global step).
        label_smoothing: epsilon of the training loss, 0 <= epsilon < 1.
        precision: "bfloat16" runs the backbone under autocast; heads stay in float32, solvers in float64.
        joint_forward: embed support and query in one call (one batch-norm statistic) instead of two.
    """

    n_way: int
    image_size: int
    steps_per_epoch: int
    label_smoothing: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    joint_forward: bool = False


def check_adaptive(
    name: str,
    settings: InnerLoopSettings,
    backbone: str,
    backbone_settings: Mapping[str, Any],
    context: LearnerContext,
) -> None:
    """Raise `ParamsError` unless a gradient-based learner, its backbone and its recipe go together."""
    if backbone != "conv4_maml":
        raise ParamsError(
            f"learner {name!r} adapts the weights of its backbone and needs conv4_maml, not {backbone!r}; "
            f"allowed: conv4_maml.{did_you_mean(backbone, ['conv4_maml'])}"
        )
    if context.precision != "float32":
        raise ParamsError(
            f"learner {name!r} runs in float32 only, not precision {context.precision!r}: rounding changes which "
            f"inner steps are taken; set precision: float32 in its recipe"
        )
    if context.label_smoothing:
        raise ParamsError(
            f"learner {name!r} has no label smoothing (found {context.label_smoothing}); "
            f"set label_smoothing: 0.0 in its recipe"
        )
    if context.joint_forward:
        raise ParamsError(
            f"learner {name!r} cannot embed support and query in one call, because it adapts to the support first; "
            f"set joint_forward: false in its recipe"
        )
    network = Conv4MAMLSettings(**backbone_settings)
    if settings.batch_norm == "per_query" and last_map_side(network, context.image_size) < 2:
        raise ParamsError(
            f"learner {name!r}: batch_norm per_query needs 2 or more pixels in the last feature map, and images of "
            f"{context.image_size} pixels leave one; allowed here: transductive, support, or larger images"
        )


def check_cxgrad(
    name: str,
    settings: InnerLoopSettings,
    backbone: str,
    backbone_settings: Mapping[str, Any],
    context: LearnerContext,
) -> None:
    """Raise `ParamsError` as `check_adaptive`, and if the convolutions have a bias."""
    check_adaptive(name, settings, backbone, backbone_settings, context)
    if Conv4MAMLSettings(**backbone_settings).bias:
        raise ParamsError(
            f"learner {name!r} rescales convolutions by their norm, which a bias of zeros does not have; "
            "set bias: false for backbone conv4_maml"
        )


def last_map_side(settings: Conv4MAMLSettings, image_size: int) -> int:
    """Return the side in pixels of the map that the last batch norm sees."""
    side = image_size
    for stage in range(CONV4_MAML_STAGES):
        if settings.pooling == "stride":
            side = (side + 1) // 2
        elif stage + 1 < CONV4_MAML_STAGES:
            side //= 2
    return side
