"""Names in `params.yaml` -> complete settings: of data sets, backbones, learners and recipes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewshot.backbones import BACKBONES
from fewshot.datasets import DATASETS
from fewshot.errors import ParamsError, locate_errors, quoted
from fewshot.experiments.experiment import Choice
from fewshot.experiments.params import Params, Recipe
from fewshot.learners import LEARNERS
from fewshot.registry import Part, find_part
from fewshot.settings import parse_as

MAX_BASE_HOPS = 2


@dataclass(frozen=True)
class Family:
    """A family of components.

    Attributes:
        kind: singular noun for messages.
        section: section of `params.yaml` with named settings.
        registry: the registered components by name.
    """

    kind: str
    section: str
    registry: Mapping[str, Part]

    def choose(self, params: Params, label: str, where: str, overrides: Mapping[str, Any] | None = None) -> Choice:
        """Resolve a registered name, or an entry of the section with `base:`, to its complete settings.

        Args:
            params: the whole file.
            label: name as given.
            where: dotted path of the key that gives it, for messages.
            overrides: settings that replace those of the entry.

        Raises:
            ParamsError: if the name or its base is unknown, or a setting is unknown or out of range.
        """
        entries: Mapping[str, dict[str, Any]] = getattr(params, self.section)
        place = f"{self.section}.{label}"
        if label not in self.registry and label not in entries:
            with locate_errors(where):
                find_part(self.kind, label, {**entries, **self.registry})
        entry = dict(entries.get(label, {}))
        part = self._base(label, entry.pop("base", label), f"{place}.base")
        try:
            settings = parse_as(
                self.registry[part].settings,
                {**entry, **(overrides or {})},
                where=f"{where}.{self.kind}" if overrides else place,
            )
        except ParamsError:
            if overrides:
                self.choose(params, label, where)  # a mistake in the entry itself is reported there, once
            raise
        return Choice(label, part, settings.model_dump(mode="json"))

    def _base(self, label: str, base: Any, where: str) -> str:
        """Check the registered name that an entry is based on."""
        if not isinstance(base, str):
            raise ParamsError(f"{where}: {quoted(base)} is not allowed: give the name of a {self.kind}")
        if label in self.registry and base != label:
            raise ParamsError(f"{where}: {quoted(label)} is itself a registered {self.kind}; choose another name")
        with locate_errors(where):
            find_part(self.kind, base, self.registry)
        return base


DATASET = Family("data set", "prepare", DATASETS)
BACKBONE = Family("backbone", "backbones", BACKBONES)
LEARNER = Family("learner", "learners", LEARNERS)


def find_recipe(params: Params, name: str, overrides: dict[str, Any], where: str) -> Recipe:
    """Resolve a recipe through its bases and apply a suite's overrides."""
    values: dict[str, Any] = {}
    chain: list[str] = []
    following: str | None = name
    while following is not None:
        with locate_errors(f"recipes.{chain[-1]}.base" if chain else where):
            entry = find_part("recipe", following, params.recipes)
        if following in chain:
            raise ParamsError(f"recipes.{name}.base: the bases form a cycle: {' -> '.join([*chain, following])}")
        chain.append(following)
        if len(chain) > MAX_BASE_HOPS + 1:
            raise ParamsError(f"recipes.{name}: more than {MAX_BASE_HOPS} bases in a chain: {' -> '.join(chain)}")
        values = _merged({key: value for key, value in entry.items() if key != "base"}, values)
        following = entry.get("base")
        if following is not None and not isinstance(following, str):
            raise ParamsError(
                f"recipes.{chain[-1]}.base: {quoted(following)} is not allowed: give the name of a recipe"
            )
    for key, value in overrides.items():
        section, _, nested = key.partition(".")
        values = _merged(values, {section: {nested: value}} if nested else {key: value})
    try:
        return parse_as(Recipe, values, where=where if overrides else f"recipes.{name}")
    except ParamsError:
        # A mistake in the recipe itself or in its base is reported there, once.
        for inner in (chain if overrides else chain[1:])[:1]:
            find_recipe(params, inner, {}, where)
        raise


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `base` with changes; sections such as `validation` are merged key by key."""
    merged = {**base, **changes}
    for key in base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            merged[key] = {**base[key], **changes[key]}
    return merged
