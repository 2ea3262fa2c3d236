"""Learners: episodes -> loss and logits. One file per learner; register it here.

The name of each head is also that of a learner: a backbone and that head, trained on episodes (`episodic.py`). The
learners in `CLASSIFIERS` are trained on minibatches of images instead, and tested on episodes with any head.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fewshot.backbones import BACKBONES
from fewshot.heads import HEADS
from fewshot.learners.context import (
    DEFAULT_CONTEXT,
    LearnerContext,
    check_adaptive,
    check_centring,
    check_classifier,
    check_classifier_changes,
    check_cxgrad,
    check_head_changes,
    check_inner_loop_changes,
    check_pooling,
)
from fewshot.learners.settings import (
    ALFASettings,
    ANILSettings,
    BOILSettings,
    ClassifierSettings,
    CosineClassifierSettings,
    CxGradSettings,
    EvaluationSettings,
    FOMAMLSettings,
    MAMLPlusPlusSettings,
    MAMLSettings,
)
from fewshot.registry import Part, find_part, lazy_exports
from fewshot.settings import Settings

# Modules whose code cannot affect results (workflow/identity.py): settings enter the key by their values.
NEUTRAL = ("settings",)

if TYPE_CHECKING:
    from fewshot.learners.alfa import ALFA
    from fewshot.learners.anil import ANIL
    from fewshot.learners.base import Learner, LossOutput
    from fewshot.learners.boil import BOIL
    from fewshot.learners.classifier import ClassifierLearner, CosineClassifierLearner
    from fewshot.learners.cxgrad import CxGrad
    from fewshot.learners.episodic import EpisodicLearner
    from fewshot.learners.maml import FOMAML, MAML
    from fewshot.learners.mamlpp import MAMLPlusPlus

__all__ = [
    "ADAPTIVE_LEARNERS",
    "ALFA",
    "ANIL",
    "BOIL",
    "CLASSIFIERS",
    "EPISODIC_LEARNERS",
    "FOMAML",
    "LEARNERS",
    "MAML",
    "ClassifierLearner",
    "CosineClassifierLearner",
    "CxGrad",
    "EpisodicLearner",
    "EvaluationSettings",
    "Learner",
    "LearnerContext",
    "LossOutput",
    "MAMLPlusPlus",
    "build_learner",
    "check_evaluation",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "ALFA": "fewshot.learners.alfa",
        "ANIL": "fewshot.learners.anil",
        "BOIL": "fewshot.learners.boil",
        "ClassifierLearner": "fewshot.learners.classifier",
        "CosineClassifierLearner": "fewshot.learners.classifier",
        "CxGrad": "fewshot.learners.cxgrad",
        "EpisodicLearner": "fewshot.learners.episodic",
        "FOMAML": "fewshot.learners.maml",
        "Learner": "fewshot.learners.base",
        "LossOutput": "fewshot.learners.base",
        "MAML": "fewshot.learners.maml",
        "MAMLPlusPlus": "fewshot.learners.mamlpp",
    },
)


def __dir__() -> list[str]:
    return __all__


def _adaptive(target: str, settings: type[Settings], check: Callable[..., None] = check_adaptive) -> Part:
    """Return the entry of a learner whose linear head fixes the number of ways."""
    return Part(f"fewshot.learners.{target}", settings, check=check, fixed_ways=True)


ADAPTIVE_LEARNERS: dict[str, Part] = {
    "maml": _adaptive("maml:MAML", MAMLSettings),
    "fomaml": _adaptive("maml:FOMAML", FOMAMLSettings),
    "anil": _adaptive("anil:ANIL", ANILSettings),
    "boil": _adaptive("boil:BOIL", BOILSettings),
    "mamlpp": _adaptive("mamlpp:MAMLPlusPlus", MAMLPlusPlusSettings),
    "alfa": _adaptive("alfa:ALFA", ALFASettings),
    "cxgrad": _adaptive("cxgrad:CxGrad", CxGradSettings, check_cxgrad),
}

EPISODIC_LEARNERS: dict[str, Part] = {
    name: Part("fewshot.learners.episodic:EpisodicLearner", head.settings, uses=head.modules)
    for name, head in HEADS.items()
}

CLASSIFIERS: dict[str, Part] = {
    "classifier": Part(
        "fewshot.learners.classifier:ClassifierLearner", ClassifierSettings, check=check_classifier, minibatches=True
    ),
    "baselinepp": Part(
        "fewshot.learners.classifier:CosineClassifierLearner",
        CosineClassifierSettings,
        check=check_classifier,
        minibatches=True,
    ),
}

LEARNERS: dict[str, Part] = {**EPISODIC_LEARNERS, **CLASSIFIERS, **ADAPTIVE_LEARNERS}


def build_learner(
    name: str,
    *,
    backbone: str,
    context: LearnerContext = DEFAULT_CONTEXT,
    backbone_settings: Mapping[str, Any] | None = None,
    **settings: Any,
) -> "Learner":
    """Build a learner and its backbone by name.

    Args:
        name: an entry of `LEARNERS`.
        backbone: an entry of `fewshot.backbones.BACKBONES`.
        context: number of ways, image size etc.
        backbone_settings: settings of the backbone that differ from its defaults.
        settings: settings of the learner that differ from its defaults.

    Raises:
        ParamsError: if a name or setting is unknown, a setting is out of range or the parts are incompatible.

    >>> learner = build_learner("svm", backbone="conv4", context=LearnerContext(image_size=32), bound=0.1)
    >>> learner.embedding_size
    256
    >>> build_learner("maml", backbone="conv4_maml", inner_step=3)
    Traceback (most recent call last):
    fewshot.errors.ParamsError: inner_step: unknown key 'inner_step'; allowed: ... Did you mean 'inner_steps'?
    """
    part = find_part("learner", name, LEARNERS)
    chosen = part.typed(settings)
    network = find_part("backbone", backbone, BACKBONES).typed(backbone_settings or {}).model_dump()
    if part.check is not None:
        part.check(name, chosen, backbone, network, context)
    learner: Learner = part.load().build(name, chosen, backbone, network, context)
    return learner


def check_evaluation(
    name: str,
    changes: EvaluationSettings,
    *,
    backbone: str,
    context: LearnerContext = DEFAULT_CONTEXT,
    backbone_settings: Mapping[str, Any] | None = None,
    **settings: Any,
) -> None:
    """Check without torch, before anything is trained, that a learner can be evaluated with other settings.

    Args:
        name: an entry of `LEARNERS`.
        changes: to be given to `Learner.for_evaluation`.
        backbone: an entry of `fewshot.backbones.BACKBONES`.
        context: number of ways, image size etc.
        backbone_settings: settings of the backbone that differ from its defaults.
        settings: settings of the learner that differ from its defaults.

    Raises:
        ParamsError: if a change is unknown, out of range, or does not fit the learner.

    >>> check_evaluation("ridge", EvaluationSettings(head="svm", head_settings={"bound": 1.0}), backbone="conv4")
    >>> check_evaluation("ridge", EvaluationSettings(inner_steps=3), backbone="conv4")
    Traceback (most recent call last):
    fewshot.errors.ParamsError: learner 'ridge' cannot be evaluated with inner_steps 3: it has no inner loop, ...
    """
    part = find_part("learner", name, LEARNERS)
    chosen = part.typed(settings)
    if name in HEADS:
        check_head_changes(name, changes)
        check_pooling(name, changes, backbone)
        _check_head(name, chosen.model_dump(), changes)
        return
    if name in CLASSIFIERS:
        check_classifier_changes(name, changes)
        check_pooling(name, changes, backbone)
        network = BACKBONES[backbone].typed(backbone_settings or {})
        centre = chosen.centre if changes.centre is None else changes.centre
        check_centring(name, centre, changes.pooling in (None, getattr(network, "pooling", None)))
        _check_head(chosen.head, chosen.head_settings, changes)
        return
    check_inner_loop_changes(name, chosen, changes)
    if changes.batch_norm is not None and part.check is not None:
        network = find_part("backbone", backbone, BACKBONES).typed(backbone_settings or {}).model_dump()
        part.check(name, chosen.model_copy(update={"batch_norm": changes.batch_norm}), backbone, network, context)


def _check_head(name: str, settings: Mapping[str, Any], changes: EvaluationSettings) -> None:
    """Raise `ParamsError` unless the changes give the head `name`, or the one they name, valid settings."""
    head = find_part("head", changes.head or name, HEADS)
    head.typed({**(settings if changes.head is None else {}), **changes.head_settings})
