"""Reads `params.yaml` and the files it includes; errors name the file of the entry they concern."""

import glob
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot.errors import ParamsError, Problems, allowed_values, locate_errors, quoted, quoted_key
from fewshot.experiments.params import Matrix, Params, Recipe
from fewshot.experiments.plain_yaml import read_yaml
from fewshot.settings import parse_as

PARAMS_FILE = Path("params.yaml")
NAMED = ("suites", "recipes", "learners", "backbones", "prepare", "variants")
"""Sections of named entries, which an included file may have too."""
BLOCK_KEYS = (*Matrix.model_fields, *Recipe.model_fields)


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
        entry = re.match(r"\w+\.[^.:\[\s]+", dotted)
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
        values = read_yaml(file, NAMED)
        with locate_errors(file):
            _include(files, file, values)
    with files.located():
        _check_blocks(files.values.get("suites"))
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
        for file in matched:
            if not file.is_file():
                raise ParamsError(
                    f"include: {quoted(pattern)} matches {file}, which is not a file; "
                    "give files, such as experiments/*.yaml"
                )
        found.update(dict.fromkeys(matched))
    return list(found)


def _check_blocks(suites: Any) -> None:
    """Refuse suites with the keys of a block, which would be taken for names of blocks."""
    problems = Problems()
    for name, suite in suites.items() if isinstance(suites, dict) else ():
        blocks = suite if isinstance(suite, dict) else {}
        if keys := [key for key, value in blocks.items() if key in BLOCK_KEYS and not isinstance(value, dict)]:
            problems.add(
                f"suites.{name}: {', '.join(keys)}: keys of a block, but a suite consists of blocks; write a list of "
                f"blocks, {name}: [{{{keys[0]}: ...}}], or name the block, {name}: {{my_block: {{{keys[0]}: ...}}}}"
            )
    problems.raise_all()


def _include(files: ParamsFiles, file: Path, values: dict[str, Any]) -> None:
    """Add the entries of an included file."""
    for section, entries in values.items():
        if section not in NAMED:
            advice = f"set this in {files.path}" if section in Params.model_fields else allowed_values(section, NAMED)
            raise ParamsError(f"{quoted_key(section)}: an included file has only named entries; {advice}")
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
