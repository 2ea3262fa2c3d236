"""Reads YAML 1.2 with plain values only, of limited size; errors name the file and the line."""

import math
import re
from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Any

import yaml

from fewshot.errors import ParamsError, locate_errors, quoted
from fewshot.experiments.params import Params

MAX_DIGITS = 100
MAX_FILE_BYTES = 2**20
MAX_VALUES = 100_000


def read_yaml(path: Path, sections: Collection[str] = tuple(Params.model_fields)) -> dict[str, Any]:
    """Read a YAML file of plain values.

    Args:
        path: the file.
        sections: what it may have, for messages.

    Raises:
        ParamsError: if it is unreadable, not YAML, or contains anything but text keys and finite plain values.
    """
    with locate_errors(path):
        values = parse_yaml(_read_text(path))
        if not isinstance(values, dict):
            raise ParamsError(f"must consist of sections ({', '.join(sections)}), not {quoted(values)}")
        return values


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ParamsError(f"{size} bytes; more than {MAX_FILE_BYTES} cannot be a parameter file")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ParamsError(f"cannot be read: {error.strerror}; run from the project folder or give --project") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"not UTF-8 text at byte {error.start}; save it as UTF-8") from None


class _Loader(yaml.SafeLoader):
    """YAML of plain values: numbers as in YAML 1.2 (`1e-3` is a number, `no` stays text), keys are unique strings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            where = f"line {key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise ParamsError(f"{where}: the key {quoted(key)} is not text; write it in quotes")
            if key in seen:
                raise ParamsError(f"{where}: duplicate key {quoted(key)}; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Read a number; text tagged as a number may not be one."""
        kind, text = node.tag.rpartition(":")[2], str(node.value)
        if not any(name == kind and re.match(pattern, text) for name, pattern, _ in _YAML_1_2):
            raise yaml.constructor.ConstructorError(
                None, None, f"{quoted(text)} is not of type {kind}", node.start_mark
            )
        if len(text) > MAX_DIGITS:
            raise ParamsError(f"line {node.start_mark.line + 1}: a number of {len(text)} characters; shorten it")
        return int(text) if kind == "int" else float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def construct_boolean(self, node: yaml.ScalarNode) -> bool:
        """Read true or false."""
        if node.value.lower() not in ("true", "false"):
            problem = f"{quoted(node.value)} is neither true nor false"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return bool(node.value.lower() == "true")

    def refuse(self, node: yaml.Node) -> None:
        """Reject anything but plain values."""
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        problem = f"the tag {quoted(tag)} is not allowed; write plain text, numbers, lists and sections"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"

# kind, pattern, possible first characters
_YAML_1_2 = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+."),
)


def _yaml_1_2(loader: type[_Loader]) -> None:
    """Make the loader read booleans and numbers as in YAML 1.2 instead of 1.1, and only plain values."""
    dropped = ("bool", "int", "float", "timestamp", "value")
    loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in rules if tag.removeprefix(_TAG) not in dropped]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern, first in _YAML_1_2:
        loader.add_implicit_resolver(f"{_TAG}{kind}", re.compile(pattern), list(first))
    plain = (f"{_TAG}null", f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map")
    loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in plain}
    loader.add_constructor(f"{_TAG}int", loader.construct_number)
    loader.add_constructor(f"{_TAG}float", loader.construct_number)
    loader.add_constructor(f"{_TAG}bool", loader.construct_boolean)
    loader.add_constructor(None, loader.refuse)


_yaml_1_2(_Loader)


def parse_yaml(text: str) -> Any:
    """Return the plain values of a text.

    Raises:
        ParamsError: if it is not YAML of plain values.
    """
    try:
        values = yaml.load(text, _Loader)
        _check_plain(values, (), {})
        return values
    except yaml.YAMLError as error:
        raise ParamsError(f"not valid YAML: {_yaml_problem(error)}") from None
    except RecursionError:
        raise ParamsError("nested too deeply, or an anchor contains itself") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_plain(value: Any, where: tuple[str, ...], sizes: dict[int, int]) -> int:
    """Reject non-finite numbers, invalid text and exploding anchors; return the number of values.

    Args:
        value: the value.
        where: its path.
        sizes: number of values of each list and section seen so far, by identity, because anchors repeat them.
    """
    if id(value) in sizes:
        return sizes[id(value)]
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        size = sum(_check_plain(item, (*where, str(key)), sizes) for key, item in items)
        sizes[id(value)] = size
    else:
        size = 1
        if isinstance(value, float) and not math.isfinite(value):
            raise ParamsError(f"{'.'.join(where)}: {value} is not a finite number")
    if any(_SURROGATE.search(text) for text in (value, *where[-1:]) if isinstance(text, str)):
        raise ParamsError(
            f"{'.'.join(where)}: {quoted(value)} contains half a character (a surrogate); write it as UTF-8"
        )
    if size > MAX_VALUES:
        raise ParamsError(
            f"{'.'.join(where) or 'the file'}: more than {MAX_VALUES} values; do anchors repeat each other?"
        )
    return size
