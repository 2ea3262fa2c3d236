"""What a registry entry is: where the class of a part lies, and which settings it takes.

The registries themselves stand in the `__init__` of each family (`heads`, `backbones`, `learners`, `datasets`).
Neither this module nor those import torch: the plan reads them all, and has to start fast.
"""

import difflib
import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from fewshot.errors import ParamsError

PartType = TypeVar("PartType")


class Settings(BaseModel):
    """Base of every typed section: unknown keys are refused, values not converted silently, instances frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NoSettings(Settings):
    """Settings of a part that has none."""


@dataclass(frozen=True)
class Part:
    """One entry of a registry.

    Attributes:
        target: "package.module:Class"; the module's code (and what it imports from this package) enters the key of
            every job that uses the part.
        settings: type of the part's settings; its fields are keyword arguments of the class.
        check: raises `ParamsError` if a learner does not go with its backbone and recipe; called before any job starts
            with its name and settings, the backbone's name and settings, and the `LearnerContext`.
        fixed_ways: the learner can only be tested with the number of ways it was trained with.
        uses: further modules that the class loads by name at run time; they enter the key too.
    """

    target: str
    settings: type[Settings] = NoSettings
    uses: tuple[str, ...] = ()
    check: Callable[..., None] | None = None
    fixed_ways: bool = False

    @property
    def module(self) -> str:
        """Name of the module that holds the class."""
        return self.target.partition(":")[0]

    @property
    def modules(self) -> tuple[str, ...]:
        """All modules whose code decides what the part computes."""
        return (self.module, *self.uses)

    def typed(self, settings: Mapping[str, Any]) -> Any:
        """Return plain values (as JSON or YAML hold them) as the part's settings.

        Raises:
            pydantic.ValidationError: if a setting is unknown or out of range.
        """
        return self.settings.model_validate_json(json.dumps(dict(settings)))

    def load(self) -> Any:
        """Import the module and return the class."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


MAX_SHOWN = 60
MAX_LISTED = 250


def shown(value: Any) -> str:
    """Return a value as a message quotes it: as in YAML, and short."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def shown_key(key: str) -> str:
    """Return a key or a place as a message names it: plain, on one line, short."""
    text = key if key.isprintable() else repr(key)
    return text if len(text) <= 2 * MAX_SHOWN else f"{text[: 2 * MAX_SHOWN - 3]}..."


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean X?' for the known word closest to `word`, or ''."""
    match = difflib.get_close_matches(word[:MAX_SHOWN], list(known), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def allowed(word: str, known: Iterable[str]) -> str:
    """Return 'allowed: ...', the known words (as many as fit in a line), and the one closest to `word`."""
    words = list(known)
    text = ", ".join(words) or "nothing"
    if len(text) > MAX_LISTED:
        text = f"{text[:MAX_LISTED].rpartition(', ')[0]} and others ({len(words)} in all)"
    return f"allowed: {text}.{nearest(word, words)}"


def find_part(kind: str, name: str, known: Mapping[str, PartType]) -> PartType:
    """Look a name up in a registry.

    Raises:
        ParamsError: if the name is unknown; lists the known ones and the nearest spelling.
    """
    if name not in known:
        raise ParamsError(f"unknown {kind} {shown(name)}; {allowed(name, known)}")
    return known[name]
