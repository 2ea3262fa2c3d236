"""Registry entries: import path and settings type of a component.

The registries are in the `__init__` of each family (`heads`, `backbones`, `learners`, `datasets`). Neither they nor
this module import torch: the plan reads them all and must start fast.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fewshot.errors import ParamsError, allowed_values, quoted
from fewshot.settings import NoSettings, Settings, parse_as

PartType = TypeVar("PartType")


@dataclass(frozen=True)
class Part:
    """One entry of a registry.

    Attributes:
        target: "package.module:Class"; the code of the module, and of what it imports from this package, is part of the
            key of every job that uses the component.
        settings: type of the component's settings; its fields are keyword arguments of the class.
        uses: other modules that the class loads by name at run time; their code is part of the key too.
        check: raises `ParamsError` if a learner is incompatible with its backbone or recipe; called with the learner's
            name and settings, the backbone's name and settings, and the `LearnerContext`, by the plan before any job
            starts and by `build_learner`.
        fixed_ways: whether the learner can be tested only with the number of ways used in training.
        minibatches: whether the learner is trained on minibatches of labelled images instead of episodes.
    """

    target: str
    settings: type[Settings] = NoSettings
    uses: tuple[str, ...] = ()
    check: Callable[..., None] | None = None
    fixed_ways: bool = False
    minibatches: bool = False

    @property
    def module(self) -> str:
        """Name of the module that defines the class."""
        return self.target.partition(":")[0]

    @property
    def modules(self) -> tuple[str, ...]:
        """All modules whose code determines what the component computes."""
        return (self.module, *self.uses)

    def typed(self, settings: Mapping[str, Any], *, where: str = "") -> Any:
        """Convert plain values (as in JSON or YAML) to the component's typed settings.

        Args:
            settings: fields of the settings type; missing ones take their defaults.
            where: dotted path of the values, for messages.

        Raises:
            ParamsError: if a setting is unknown or out of range; the message says what is allowed.
        """
        return parse_as(self.settings, dict(settings), where=where)

    def load(self) -> Any:
        """Import the module and return the class."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


def find_part(kind: str, name: str, known: Mapping[str, PartType]) -> PartType:
    """Look up a name in a registry.

    Raises:
        ParamsError: if the name is unknown; the message lists the known ones and the closest match.
    """
    if not isinstance(name, str) or name not in known:
        raise ParamsError(f"unknown {kind} {quoted(name)}; {allowed_values(str(name), known)}")
    return known[name]


def lazy_exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that imports each exported class on first use.

    Args:
        package: name of the package.
        modules: name of each exported class or function -> full name of its module.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return load
