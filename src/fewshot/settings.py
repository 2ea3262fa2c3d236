"""Typed settings: the base class of all sections and component settings, and errors that state what is allowed."""

import json
from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from fewshot.errors import MAX_PROBLEMS, ParamsError, allowed_values, quoted, quoted_key


class Settings(BaseModel):
    """Base of all typed sections: unknown keys are errors, values are not converted silently, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NoSettings(Settings):
    """Settings of a component without settings."""


ModelType = TypeVar("ModelType", bound=BaseModel)


def parse_as(model: type[ModelType], values: Any, *, where: str, at_most: int = MAX_PROBLEMS) -> ModelType:
    """Parse plain values as a settings type.

    Args:
        model: the type.
        values: plain values (dicts, lists, numbers, text); numbers may be those of numpy, or tensors with one number.
        where: dotted path of the values, for messages; "" for the whole file.
        at_most: number of problems to list.

    Raises:
        ParamsError: one line per problem, naming the key, its value and what is allowed.
    """
    values = _plain(values, where)
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        details = _innermost(values, error.errors(include_url=False))
        lines = _merged([_explain(model, values, detail, where) for detail in details])
        more = len(lines) - at_most
        raise ParamsError("\n".join(lines[:at_most] + ([f"and {more} more"] if more > 0 else []))) from None


def _plain(values: Any, place: str) -> Any:
    """Return values with the scalars of numpy and torch as plain numbers.

    Raises:
        ParamsError: if a value is anything that YAML or JSON cannot hold.
    """
    if isinstance(values, Mapping):
        return {key: _plain(value, f"{place}.{quoted_key(str(key))}") for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_plain(value, f"{place}[{index}]") for index, value in enumerate(values)]
    plain = values.item() if getattr(values, "ndim", None) == 0 else values
    if plain is None or isinstance(plain, (str, int, float)):
        return plain
    raise ParamsError(
        f"{place.removeprefix('.')}: {quoted(values)} is not allowed: it should be a number, text, true, false, null, "
        "a list or a section"
    )


def _innermost(values: Any, details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return the problems without those of lists and sections in which another problem is more specific.

    Pydantic also reports the list that is too short without its wrong item, and each type that was not meant.
    """
    places = [tuple(_keys(values, detail)) for detail in details]
    outer = {place[:length] for place in places for length in range(len(place))}
    return [detail for detail, place in zip(details, places, strict=True) if place not in outer]


def _explain(model: type[BaseModel], values: Any, detail: ErrorDetails, where: str) -> tuple[str, str]:
    """Return (dotted path, message) of one problem."""
    parts = _keys(values, detail)
    place = where + "".join(f"[{part}]" if isinstance(part, int) else f".{quoted_key(part)}" for part in parts)
    place = place.removeprefix(".")
    if detail["type"] == "extra_forbidden":
        return (
            place,
            f"unknown key {quoted(parts[-1])}; {allowed_values(str(parts[-1]), _fields_at(model, parts[:-1]))}",
        )
    if detail["type"] == "missing":
        return place, f"missing key {quoted(parts[-1])}; add it"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    for technical, plain in _PLAIN_WORDS.items():
        message = message.replace(technical, plain)
    of_section = isinstance(detail["input"], dict) and detail["type"] == "value_error"
    return place, message if of_section else f"{quoted(detail['input'])} is not allowed: {message}"


_PLAIN_WORDS = {
    "a valid array": "a list",
    "a valid tuple": "a list",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid dictionary": "a section",
    "an object": "a section",
    "Tuple should": "it should",
    "String should": "it should",
    "Dictionary should": "it should",
    "match pattern '^[a-z0-9][a-z0-9_]*$'": "consist of a-z, 0-9 and _",
    " after validation": "",
    "be False": "be false",
}


def _keys(values: Any, detail: ErrorDetails) -> list[str | int]:
    """Return the keys leading to a problem; pydantic's location also includes the union members it tried."""
    keys: list[str | int] = []
    for part in detail["loc"]:
        indices: Container[str | int] = range(len(values)) if isinstance(values, list) else ()
        if part in (values if isinstance(values, dict) else indices):
            values = values[part]
            keys.append(part)
    return [*keys, detail["loc"][-1]] if detail["type"] == "missing" else keys


def _fields_at(model: type[BaseModel], parts: Sequence[str | int]) -> list[str]:
    """Return the field names of the section that `parts` leads to."""
    for part in parts:
        field = model.model_fields.get(str(part))
        section = None if field is None else _section_type(field.annotation)
        model = section or model  # the name of an entry, such as a variant's, leads no further
    return list(model.model_fields)


def _section_type(annotation: Any) -> type[BaseModel] | None:
    """Return the type of a section, or of the entries of a section such as `dict[Name, Settings]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_type, get_args(annotation))), None)


def _merged(problems: list[tuple[str, str]]) -> list[str]:
    """Join the messages of several union members about one value."""
    by_place: dict[str, list[str]] = {}
    for place, text in problems:
        by_place.setdefault(place, []).append(text)
    return [
        f"{place}: {texts[0]}" + "".join(f"; or {text.partition(' is not allowed: ')[2] or text}" for text in texts[1:])
        for place, texts in by_place.items()
    ]
