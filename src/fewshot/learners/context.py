"""What learners need to know about an experiment, and which parts are compatible. Without torch, for the plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fewshot.backbones import BACKBONES
from fewshot.backbones.settings import Conv4MAMLSettings
from fewshot.errors import ParamsError, did_you_mean, locate_errors, quoted
from fewshot.heads import HEADS
from fewshot.learners.settings import ClassifierSettings, EvaluationSettings, MAMLSettings
from fewshot.registry import find_part


@dataclass(frozen=True)
class LearnerContext:
    """What a learner needs to know about the experiment, apart from its own settings.

    Attributes:
        n_way: classes per training episode (fixes the size of a linear head).
        n_classes: classes of the training split, which `classifier` distinguishes; None if unknown in advance.
        image_size: side of the square images, pixels; the default is that of miniImageNet.
        steps_per_epoch: outer steps per epoch, used only by schedules in epochs (`first_order_epochs`,
            `multi_step_loss_epochs`) to compute the epoch from the global step; the default is that of MAML++.
        label_smoothing: epsilon of the training loss, 0 <= epsilon < 1.
        precision: "bfloat16" runs the backbone under autocast; heads stay in float32, solvers in float64. "tf32" is
            float32 here: it is a setting of the whole process (`fewshot.experiments.precision`).
        compile: on GPUs, compile the backbone's training pass with `torch.compile`.
        joint_forward: embed support and query in one call (shared batch-norm statistics) instead of two.
    """

    n_way: int = 5
    n_classes: int | None = None
    image_size: int = 84
    steps_per_epoch: int = 500
    label_smoothing: float = 0.0
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    compile: bool = False
    joint_forward: bool = False


DEFAULT_CONTEXT = LearnerContext()


def check_adaptive(
    name: str,
    settings: MAMLSettings,
    backbone: str,
    backbone_settings: Mapping[str, Any],
    context: LearnerContext,
) -> None:
    """Raise `ParamsError` unless a gradient-based learner, its backbone and its recipe are compatible.

    Args:
        name: of the learner.
        settings: of the learner.
        backbone: name of the backbone.
        backbone_settings: of the backbone; missing ones take their defaults.
        context: n_way, image size etc.
    """
    if backbone != "conv4_maml":
        raise ParamsError(
            f"learner {name!r} adapts the weights of its backbone and needs conv4_maml, not {backbone!r}; "
            f"allowed: conv4_maml.{did_you_mean(backbone, ['conv4_maml'])}"
        )
    check_context(name, context)
    if settings.batch_norm == "per_query":
        side = Conv4MAMLSettings(**backbone_settings).last_map_side(context.image_size)
        check_per_query(name, side, context.image_size)


def check_cxgrad(
    name: str,
    settings: MAMLSettings,
    backbone: str,
    backbone_settings: Mapping[str, Any],
    context: LearnerContext,
) -> None:
    """Raise `ParamsError` as `check_adaptive` does, and if the convolutions have a bias."""
    check_adaptive(name, settings, backbone, backbone_settings, context)
    check_no_bias(name, Conv4MAMLSettings(**backbone_settings).bias)


def check_context(name: str, context: LearnerContext) -> None:
    """Raise `ParamsError` if the context requires something that no gradient-based learner supports."""
    if context.precision == "bfloat16":
        raise ParamsError(
            f"learner {name!r} does not run in precision 'bfloat16': rounding would alter the inner steps; set "
            "precision: float32 (or tf32) in its recipe"
        )
    if context.compile:
        raise ParamsError(
            f"learner {name!r} cannot be compiled: its forward pass takes gradients, for other weights in each task; "
            "set compile: false in its recipe"
        )
    if context.label_smoothing:
        raise ParamsError(
            f"learner {name!r} has no label smoothing (found {context.label_smoothing}); "
            f"set label_smoothing: 0.0 in its recipe"
        )
    if context.joint_forward:
        raise ParamsError(
            f"learner {name!r} cannot embed support and query in one call, because it first adapts to the support; "
            f"set joint_forward: false in its recipe"
        )


def check_per_query(name: str, last_map_side: int, image_size: int) -> None:
    """Raise `ParamsError` if a single image has no variance in the last feature map."""
    if last_map_side < 2:
        raise ParamsError(
            f"learner {name!r}: batch_norm per_query needs 2 or more pixels in the last feature map, but images of "
            f"{image_size} pixels leave only one; allowed here: transductive, support, or larger images"
        )


def check_no_bias(name: str, bias: bool) -> None:
    """Raise `ParamsError` if convolutions to be rescaled by their norm have a bias."""
    if bias:
        raise ParamsError(
            f"learner {name!r} divides convolution parameters by their norm, which is zero for the initial bias; "
            "set bias: false for backbone conv4_maml"
        )


def check_inner_loop_changes(name: str, settings: MAMLSettings, changes: EvaluationSettings) -> None:
    """Raise `ParamsError` unless a gradient-based learner can be evaluated with these changes."""
    if changes.head is not None or changes.head_settings:
        raise ParamsError(
            f"learner {name!r} cannot be evaluated with another head or head_settings: its linear head is part of the "
            "network it adapts; allowed: inner_steps, batch_norm"
        )
    if changes.augmented_support is not None:
        raise ParamsError(
            f"learner {name!r} cannot be evaluated with augmented_support: its inner loop takes each support image "
            "once; allowed: inner_steps, batch_norm"
        )
    if changes.pooling is not None:
        raise ParamsError(
            f"learner {name!r} cannot be evaluated with another pooling: its linear head is trained for the features "
            "as they are; allowed: inner_steps, batch_norm"
        )
    _check_untreated(name, changes, "inner_steps, batch_norm")
    if settings.has_parameters_per_step and changes.inner_steps not in (None, settings.inner_steps):
        raise ParamsError(
            f"learner {name!r} cannot be evaluated with inner_steps {changes.inner_steps}: it has parameters for each "
            f"of its {settings.inner_steps} inner steps; allowed: {settings.inner_steps} or null, or "
            f"{settings.without_parameters_per_step}"
        )


def check_head_changes(name: str, changes: EvaluationSettings) -> None:
    """Raise `ParamsError` unless an episodic learner can be evaluated with these changes."""
    allowed = "head, head_settings, pooling, augmented_support"
    _check_no_inner_loop(name, changes, allowed)
    _check_untreated(name, changes, allowed)


def check_classifier_changes(name: str, changes: EvaluationSettings) -> None:
    """Raise `ParamsError` unless a classifier of images can be evaluated with these changes."""
    _check_no_inner_loop(name, changes, "head, head_settings, pooling, l2, centre, augmented_support")


def check_centring(name: str, centre: bool, same_pooling: bool) -> None:
    """Raise `ParamsError` if features of another pooling than in training are to be centred."""
    if centre and not same_pooling:
        raise ParamsError(
            f"learner {name!r} cannot be evaluated with another pooling and centre: the mean embedding of the training "
            "classes is that of the training's pooling; set centre: false"
        )


def check_pooling(name: str, changes: EvaluationSettings, backbone: str) -> None:
    """Raise `ParamsError` if the pooling of a backbone without a choice is to be changed."""
    with_choice = [known for known, part in BACKBONES.items() if getattr(part.settings, "has_choice_of_pooling", False)]
    if changes.pooling is not None and backbone not in with_choice:
        raise ParamsError(
            f"learner {name!r} cannot be evaluated with pooling {quoted(changes.pooling)}: backbone {backbone!r} has "
            f"no choice of pooling; allowed: {', '.join(with_choice)}"
        )


def _check_untreated(name: str, changes: EvaluationSettings, allowed: str) -> None:
    """Raise `ParamsError` if the features of a learner that does not treat them are to be treated."""
    for setting in ("l2", "centre"):
        if getattr(changes, setting) is not None:
            raise ParamsError(
                f"learner {name!r} cannot be evaluated with {setting}: it is trained with its features as they are; "
                f"allowed: {allowed}"
            )


def _check_no_inner_loop(name: str, changes: EvaluationSettings, allowed: str) -> None:
    """Raise `ParamsError` if the inner loop of a learner without one is to be changed."""
    for setting in ("inner_steps", "batch_norm"):
        if (value := getattr(changes, setting)) is not None:
            raise ParamsError(
                f"learner {name!r} cannot be evaluated with {setting} {quoted(value)}: it has no inner loop, and batch "
                f"norm uses its running statistics; allowed: {allowed}"
            )


def check_classifier(
    name: str,
    settings: ClassifierSettings,
    backbone: str,
    backbone_settings: Mapping[str, Any],
    context: LearnerContext,
) -> None:
    """Raise `ParamsError` unless a classifier of images knows its classes and a head for episodes.

    Args:
        name: of the learner.
        settings: of the learner.
        backbone: name of the backbone; any will do.
        backbone_settings: of the backbone.
        context: n_classes, joint_forward etc.
    """
    with locate_errors(f"learner {name!r}"):
        find_part("head", settings.head, HEADS).typed(settings.head_settings, where="head_settings")
    if settings.n_classes is None and context.n_classes is None:
        raise ParamsError(
            f"learner {name!r}: the number of training classes is not known before the data are prepared; set "
            "learner.n_classes"
        )
    if context.joint_forward:
        raise ParamsError(
            f"learner {name!r} is trained without support and query images; set joint_forward: false in its recipe"
        )
