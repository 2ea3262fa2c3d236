"""Heads (base learners): support and query embeddings -> scores. One file a head, one entry here."""

from typing import Any

from fewshot.registry import Part, find_part

HEADS: dict[str, Part] = {}


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
