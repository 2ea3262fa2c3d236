"""Learners: episodes -> loss and logits. One file a learner, one entry here.

A head's name is a learner too: backbone and head, trained episode by episode (`episodic.py`).
"""

from collections.abc import Callable
from typing import Any

from fewshot.heads import HEADS
from fewshot.learners.context import check_adaptive, check_cxgrad
from fewshot.learners.settings import (
    ALFASettings,
    ANILSettings,
    BOILSettings,
    CxGradSettings,
    FOMAMLSettings,
    MAMLPlusPlusSettings,
    MAMLSettings,
)
from fewshot.registry import Part, find_part
from fewshot.settings import Settings


def _adaptive(target: str, settings: type[Settings], check: Callable[..., None] = check_adaptive) -> Part:
    """Return the entry of a learner with a linear head, which knows one number of ways."""
    return Part(f"fewshot.learners.{target}", settings, check=check, fixed_ways=True)


ADAPTIVE_LEARNERS: dict[str, Part] = {
    "maml": _adaptive("maml:MAML", MAMLSettings),
    "fomaml": _adaptive("maml:MAML", FOMAMLSettings),
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

LEARNERS: dict[str, Part] = {**EPISODIC_LEARNERS, **ADAPTIVE_LEARNERS}


def build_learner(
    name: str, *, backbone: str, context: Any, backbone_settings: dict[str, Any] | None = None, **settings: Any
) -> Any:
    """Return the learner `name` as a `fewshot.learners.base.Learner`.

    Args:
        name: an entry of `LEARNERS`.
        backbone: an entry of `fewshot.backbones.BACKBONES`.
        context: a `fewshot.learners.base.LearnerContext`.
        backbone_settings: settings of the backbone that differ from its defaults.
        settings: settings of the learner that differ from its defaults.

    Raises:
        ParamsError: if a name is unknown or the parts do not go together.
        pydantic.ValidationError: if a setting is unknown or out of range.
    """
    part = find_part("learner", name, LEARNERS)
    chosen = part.typed(settings)
    return part.load().build(name, chosen, backbone, backbone_settings or {}, context)
