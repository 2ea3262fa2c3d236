"""Reads `params.yaml` and the files it includes: YAML 1.2 with plain values only, of limited size.

Errors name the file and the line or entry.
"""

import glob
import math
import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fewshot.errors import ParamsError, locate_errors, quoted, quoted_key
from fewshot.experiments.params import Params
from fewshot.settings import parse_as

PARAMS_FILE = Path("params.yaml")
MAX_DIGITS = 100
MAX_FILE_BYTES = 2**20
MAX_VALUES = 100_000
NAMED = ("suites", "recipes", "learners", "backbones", "prepare", "variants")
"""Sections of named entries, which an included file may have too."""


@dataclass(frozen=True)
class ParamsFiles:
    """The values of a parameter file, with the entries of the files it includes.

    Attributes:
        path: the parameter file.
        values: plain values by section.
        included: the files read besides it, in the order of their entries.
        places: file of each entry that another file than `path` defines, by dotted path, such as `suites.mine`.
    """

    path: Path
    values: dict[str, Any]
    included: list[Path] = field(default_factory=list)
    places: dict[str, Path] = field(default_factory=dict)

    def file_of(self, dotted: str) -> Path:
        """Return the file that defines the entry which a dotted path, or a message that starts with one, names."""
        entry = re.match(r"\w+\.\w+", dotted)
        return self.places.get(entry.group(), self.path) if entry else self.path

    @contextmanager
    def located(self) -> Iterator[None]:
        """Prefix each line of a `ParamsError` with the file of the entry it concerns."""
        try:
            yield
        except ParamsError as error:
            lines = str(error).splitlines()
            raise ParamsError("\n".join(f"{self.file_of(line)}: {line}" for line in lines)) from None

    def parsed(self) -> Params:
        """Return the typed parameters.

        Raises:
            ParamsError: with every problem found, each naming the file, the key, the value and what is allowed.
        """
        with self.located():
            return parse_as(Params, self.values, where="")


def read_files(path: Path = PARAMS_FILE, overrides: Mapping[str, Any] | None = None) -> ParamsFiles:
    """Read a parameter file and those it includes.

    Args:
        path: the YAML file.
        overrides: top-level keys to replace, as given to ``snakemake --config``.

    Raises:
        ParamsError: if a file is unreadable, not YAML of plain values, or defines what another one does.
    """
    files = ParamsFiles(path, {**read_yaml(path), **(overrides or {})})
    with locate_errors(path):
        files.included.extend(_included_files(path, files.values.get("include", ())))
    for file in files.included:
        values = read_yaml(file)
        with locate_errors(file):
            _include(files, file, values)
    return files


def _included_files(path: Path, patterns: Any) -> list[Path]:
    """Return the files that match the patterns, which are relative to the folder of `path`; each once."""
    found: dict[Path, None] = {}
    for pattern in patterns if isinstance(patterns, (list, tuple)) else [patterns]:
        if not isinstance(pattern, str) or not pattern or "\0" in pattern:
            raise ParamsError(f"include: {quoted(pattern)} is not allowed: give paths or patterns of files")
        matched = [path.parent / name for name in sorted(glob.glob(pattern, root_dir=path.parent))]
        if not matched and not glob.has_magic(pattern):
            raise ParamsError(f"include: {quoted(pattern)} is not a file; correct the path, relative to {path.name}")
        found.update(dict.fromkeys(matched))
    return list(found)


def _include(files: ParamsFiles, file: Path, values: dict[str, Any]) -> None:
    """Add the entries of an included file."""
    for section, entries in values.items():
        if section not in NAMED:
            raise ParamsError(
                f"{quoted_key(section)}: an included file has only {', '.join(NAMED)}; set this in {files.path}"
            )
        if not isinstance(entries, dict):
            raise ParamsError(f"{section}: {quoted(entries)} is not allowed: it should be a section of named entries")
        known = files.values.setdefault(section, {})
        for name, entry in entries.items():
            dotted = f"{section}.{name}"
            if name in known:
                raise ParamsError(f"{quoted_key(dotted)}: also in {files.file_of(dotted)}; rename one of them")
            known[name] = entry
            files.places[dotted] = file


def read_params(path: Path = PARAMS_FILE, overrides: dict[str, Any] | None = None) -> Params:
    """Read, check and type a parameter file.

    Args:
        path: the YAML file.
        overrides: top-level keys to replace, as given to ``snakemake --config``.

    Raises:
        ParamsError: with every problem found, each naming the key, the value, what is allowed and the closest match.
    """
    return read_files(path, overrides).parsed()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of plain values.

    Raises:
        ParamsError: if it is unreadable, not YAML, or contains anything but text keys and finite plain values.
    """
    with locate_errors(path):
        values = parse_yaml(_read_text(path))
        if not isinstance(values, dict):
            raise ParamsError(f"must consist of sections ({', '.join(Params.model_fields)}), not {quoted(values)}")
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
