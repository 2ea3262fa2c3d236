"""Heads (base learners): support and query embeddings -> scores. One file per head; register it here.

The settings types are defined here, not in the heads' files, so that the plan can read them without importing torch.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fewshot.registry import Part, find_part, lazy_exports
from fewshot.settings import Settings

if TYPE_CHECKING:
    from fewshot.heads.base import Head
    from fewshot.heads.cosine import CosineHead
    from fewshot.heads.logistic import LogisticHead
    from fewshot.heads.prototype import PrototypeHead
    from fewshot.heads.r2d2 import R2D2Head
    from fewshot.heads.ridge import RidgeHead
    from fewshot.heads.svm import SvmHead
    from fewshot.heads.svm_he import SvmHeHead
    from fewshot.heads.svm_ww import SvmWwHead

__all__ = [
    "HEADS",
    "CosineHead",
    "Head",
    "HeadSettings",
    "LogisticHead",
    "PrototypeHead",
    "R2D2Head",
    "RidgeHead",
    "SvmHeHead",
    "SvmHead",
    "SvmWwHead",
    "build_head",
]


class HeadSettings(Settings):
    """Settings of every head."""

    initial_scale: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="initial value of the learnable factor of the scores (Lee et al. 2019: 1, SGD at rate 0.1)",
    )


class CertifiedSettings(HeadSettings):
    """Settings of every head with an iterative solver."""

    allow_unconverged: bool = Field(False, description="continue training if the solver did not converge")


class PrototypeSettings(HeadSettings):
    """Settings of the head `prototype`."""

    divide_by_dimension: bool = Field(
        True, description="divide squared distances by the number of features (Lee et al. 2019, released code)"
    )


class CosineSettings(HeadSettings):
    """Settings of the head `cosine`."""


class LogisticSettings(CertifiedSettings):
    """Settings of the head `logistic`."""

    loss_weight: float = Field(
        1.0,
        gt=0,
        description="C, factor of the summed cross-entropy against half the squared norm of the weights (scikit-learn "
        "and RFS: 1)",
    )


class RidgeSettings(HeadSettings):
    """Settings of the head `ridge`."""

    ridge: float = Field(50.0, gt=0, description="lambda, weight of the squared norm (Lee et al. 2019, released code)")
    target_scale: float = Field(
        2.0, gt=0, description="factor of the one-hot targets (2 in the released code, 1 in Eq. 11 of the paper)"
    )


class R2D2Settings(HeadSettings):
    """Settings of the head `r2d2`."""

    ridge: float = Field(50.0, gt=0, description="lambda, weight of the squared norm (Lee et al. 2019, released code)")


class SvmSettings(CertifiedSettings):
    """Settings of the head `svm`."""

    bound: float = Field(0.1, gt=0, description="C, largest dual variable (Lee et al. 2019, released code)")
    diagonal_shift: float = Field(
        1.0, ge=0, description="added to the diagonal of the kernel (1 in the released code, 0 in Eq. 10)"
    )
    solver: Literal["exact", "qpth", "truncated"] = Field(
        "exact", description="the optimum, qpth as released, or qpth's iterates computed without qpth (both slow)"
    )
    backend: Literal["auto", "numba", "torch"] = Field(
        "auto", description="backend of solver exact: numba (CPU), torch (batched, any device), or auto (by device)"
    )
    max_iterations: int = Field(
        15, ge=1, description="iterations of solvers qpth and truncated (15 in the released training program)"
    )
    solver_precision: Literal["float32", "float64"] = Field(
        "float32", description="precision of solvers qpth and truncated; exact always uses float64"
    )
    allow_unconverged: bool = Field(
        False, description="continue training if solver exact did not converge; evaluation counts such episodes"
    )


class SvmWwSettings(CertifiedSettings):
    """Settings of the head `svm_ww`."""

    bound: float = Field(1e-5, gt=0, description="C, largest dual variable (Lee et al. 2019, released code)")


class SvmHeSettings(CertifiedSettings):
    """Settings of the head `svm_he`."""

    bound: float = Field(0.01, gt=0, description="C, largest dual variable (Lee et al. 2019, released code)")


HEADS: dict[str, Part] = {
    "prototype": Part("fewshot.heads.prototype:PrototypeHead", PrototypeSettings),
    "cosine": Part("fewshot.heads.cosine:CosineHead", CosineSettings),
    "ridge": Part("fewshot.heads.ridge:RidgeHead", RidgeSettings),
    "r2d2": Part("fewshot.heads.r2d2:R2D2Head", R2D2Settings),
    "svm": Part("fewshot.heads.svm:SvmHead", SvmSettings),
    "svm_ww": Part("fewshot.heads.svm_ww:SvmWwHead", SvmWwSettings),
    "svm_he": Part("fewshot.heads.svm_he:SvmHeHead", SvmHeSettings),
    "logistic": Part("fewshot.heads.logistic:LogisticHead", LogisticSettings),
}


_CLASSES = {"Head": "fewshot.heads.base"} | {part.target.partition(":")[2]: part.module for part in HEADS.values()}
__getattr__ = lazy_exports(__name__, _CLASSES)


def __dir__() -> list[str]:
    return __all__


def build_head(name: str, **settings: Any) -> "Head":
    """Return the head `name`, a `torch.nn.Module`: ``head(support, support_labels, query)`` gives scores.

    Args:
        name: an entry of `HEADS`.
        settings: fields of the entry's settings type; missing ones take their defaults.

    Raises:
        ParamsError: a `ValueError`, if the name or a setting is unknown or a value is out of range.

    >>> build_head("r2d2", ridge=10.0)
    R2D2Head(ridge=10.0, initial_scale=1.0)
    >>> build_head("svm", bond=1.0)
    Traceback (most recent call last):
        ...
    fewshot.errors.ParamsError: bond: unknown key 'bond'; allowed: initial_scale, ... Did you mean 'bound'?
    """
    head: Head = find_part("head", name, HEADS).load()(**settings)
    return head
