"""Heads (base learners): support and query embeddings -> scores. One file a head, one entry here."""

from typing import Any

from pydantic import Field

from fewshot.registry import Part, Settings, find_part


class PrototypeSettings(Settings):
    """Settings of the head `prototype`."""

    divide_by_dimension: bool = Field(
        True, description="divide squared distances by the number of features (Lee et al. 2019, released code)"
    )


class RidgeSettings(Settings):
    """Settings of the head `ridge`."""

    ridge: float = Field(50.0, gt=0, description="lambda, weight of the squared norm (Lee et al. 2019, released code)")
    target_scale: float = Field(
        2.0, gt=0, description="factor of the one-hot targets (2 in the released code, 1 in its paper's Eq. 11)"
    )


class R2D2Settings(Settings):
    """Settings of the head `r2d2`."""

    ridge: float = Field(50.0, gt=0, description="lambda, weight of the squared norm (Lee et al. 2019, released code)")


HEADS: dict[str, Part] = {
    "prototype": Part("fewshot.heads.prototype:PrototypeHead", PrototypeSettings),
    "ridge": Part("fewshot.heads.ridge:RidgeHead", RidgeSettings),
    "r2d2": Part("fewshot.heads.r2d2:R2D2Head", R2D2Settings),
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
    return part.load()(**part.settings(**settings).model_dump())
