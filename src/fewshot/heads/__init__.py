"""Heads (base learners): support and query embeddings -> scores. One file a head, one entry here."""

from typing import Any, Literal

from pydantic import Field

from fewshot.registry import Part, find_part
from fewshot.settings import Settings


class HeadSettings(Settings):
    """What every head has."""

    initial_scale: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="the learnable factor of the scores at the start (Lee et al. 2019: 1, learned by SGD at rate 0.1)",
    )


class PrototypeSettings(HeadSettings):
    """Settings of the head `prototype`."""

    divide_by_dimension: bool = Field(
        True, description="divide squared distances by the number of features (Lee et al. 2019, released code)"
    )


class RidgeSettings(HeadSettings):
    """Settings of the head `ridge`."""

    ridge: float = Field(50.0, gt=0, description="lambda, weight of the squared norm (Lee et al. 2019, released code)")
    target_scale: float = Field(
        2.0, gt=0, description="factor of the one-hot targets (2 in the released code, 1 in its paper's Eq. 11)"
    )


class R2D2Settings(HeadSettings):
    """Settings of the head `r2d2`."""

    ridge: float = Field(50.0, gt=0, description="lambda, weight of the squared norm (Lee et al. 2019, released code)")


class SvmSettings(HeadSettings):
    """Settings of the head `svm`."""

    bound: float = Field(0.1, gt=0, description="C, largest dual variable (Lee et al. 2019, released code)")
    diagonal_shift: float = Field(
        1.0, ge=0, description="added to the diagonal of the kernel (1 in the released code, 0 in Eq. 10)"
    )
    solver: Literal["exact", "qpth", "truncated"] = Field(
        "exact", description="the optimum, or qpth as released, or qpth's iterates made without it (both slow)"
    )
    backend: Literal["auto", "numba", "torch"] = Field(
        "auto", description="of solver exact: compiled for the CPU, batched torch, or by device"
    )
    max_iterations: int = Field(15, ge=1, description="of solvers qpth and truncated in training (released code)")
    max_iterations_evaluation: int = Field(3, ge=1, description="of the same in evaluation (released test script)")
    solver_precision: Literal["float32", "float64"] = Field(
        "float32", description="arithmetic of solvers qpth and truncated; exact always uses float64"
    )
    allow_unconverged: bool = Field(
        False, description="train on even where solver exact did not converge; evaluation counts such episodes"
    )


class SvmWwSettings(HeadSettings):
    """Settings of the head `svm_ww`."""

    bound: float = Field(1e-5, gt=0, description="C, largest dual variable (Lee et al. 2019, released code)")
    allow_unconverged: bool = Field(False, description="train on even where the solver did not converge")


class SvmHeSettings(HeadSettings):
    """Settings of the head `svm_he`."""

    bound: float = Field(0.01, gt=0, description="C, largest dual variable (Lee et al. 2019, released code)")
    allow_unconverged: bool = Field(False, description="train on even where the solver did not converge")


HEADS: dict[str, Part] = {
    "prototype": Part("fewshot.heads.prototype:PrototypeHead", PrototypeSettings),
    "ridge": Part("fewshot.heads.ridge:RidgeHead", RidgeSettings),
    "r2d2": Part("fewshot.heads.r2d2:R2D2Head", R2D2Settings),
    "svm": Part("fewshot.heads.svm:SvmHead", SvmSettings),
    "svm_ww": Part("fewshot.heads.svm_ww:SvmWwHead", SvmWwSettings),
    "svm_he": Part("fewshot.heads.svm_he:SvmHeHead", SvmHeSettings),
}


def build_head(name: str, **settings: Any) -> Any:
    """Return the head `name` as a `torch.nn.Module`; ``head(support, support_labels, query, n_way=M)`` gives scores.

    Args:
        name: an entry of `HEADS`.
        settings: fields of the entry's settings type; missing ones take their defaults.

    Raises:
        ParamsError: if the name is unknown.
        pydantic.ValidationError: if a setting is unknown or out of range.
    """
    part = find_part("head", name, HEADS)
    chosen = part.typed(settings).model_dump()
    scale = chosen.pop("initial_scale")
    head = part.load()(**chosen)
    head.scale.data.fill_(scale)
    return head
