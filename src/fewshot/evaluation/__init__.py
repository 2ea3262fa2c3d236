"""Evaluation of trained learners on frozen episodes, and of heads on given features; independent of the learner."""

from typing import TYPE_CHECKING

from fewshot.registry import lazy_exports

if TYPE_CHECKING:
    from fewshot.evaluation.features import HeadAccuracy, evaluate_head
    from fewshot.evaluation.interval import mean_ci95

__all__ = ["HeadAccuracy", "evaluate_head", "mean_ci95"]

__getattr__ = lazy_exports(
    __name__,
    {
        "HeadAccuracy": "fewshot.evaluation.features",
        "evaluate_head": "fewshot.evaluation.features",
        "mean_ci95": "fewshot.evaluation.interval",
    },
)


def __dir__() -> list[str]:
    return __all__
