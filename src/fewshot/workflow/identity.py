"""What makes two jobs the same: digests of settings, of code by meaning, of given files and of package versions."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fewshot.errors import DataError
from fewshot.paths import CACHE

PACKAGE = "fewshot"
PACKAGE_DIR = Path(__file__).parents[1]
KEY_LENGTH = 12
REMEMBERED = CACHE / "digests.json"

# Modules that cannot change a number: they choose, type and name jobs (the outcome enters the key as settings),
# say where files lie, or word errors.
NEUTRAL = frozenset(
    f"{PACKAGE}{suffix}"
    for suffix in (
        "", ".errors", ".registry", ".paths", ".cli", ".progress",
        ".experiments", ".experiments.params", ".experiments.matrix",
        ".workflow", ".workflow.identity", ".workflow.plan",
        ".backbones", ".heads", ".learners", ".datasets",
        ".backbones.settings", ".learners.settings", ".datasets.settings",
    )
)  # fmt: skip


def digest(value: Any) -> str:
    """Return the key of plain values: sha256 of their canonical JSON, shortened."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def code_digest(modules: Iterable[str]) -> str:
    """Return a digest of what the modules mean: their syntax and that of all modules of this package they import.

    Comments, docstrings and layout do not count. Imports are found in the text, at any depth of a module.
    """
    return digest({module: _meaning(module) for module in imported_modules(modules)})


def imported_modules(modules: Iterable[str]) -> list[str]:
    """Return the modules and all modules of this package that they import, sorted, without the neutral ones."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or module in NEUTRAL:
            continue
        found.add(module)
        waiting.extend(_imports(module))
        parent = module.rpartition(".")[0]
        waiting.extend([parent] if parent else [])
    return sorted(found)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_source_file(module).read_bytes())


@cache
def _source_file(module: str) -> Path:
    base = PACKAGE_DIR.joinpath(*module.split(".")[1:])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Return the modules of this package that a module names in its import statements."""
    names: list[str] = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] == PACKAGE and _source_file(name).is_file())


@cache
def _meaning(module: str) -> str:
    return hashlib.sha256("".join(_tokens(_tree(module))).encode()).hexdigest()


def _tokens(node: Any) -> Iterator[str]:
    """Yield a syntax tree as text. Empty fields are left out, so that newer Pythons with more fields agree."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        body_start = 1 if _has_docstring(node) else 0
        for name, value in ast.iter_fields(node):
            if value is None or value == [] or name in ("kind", "type_comment"):
                continue
            yield f" {name}="
            yield from _tokens(value[body_start:] if name == "body" and isinstance(value, list) else value)
        yield ")"
    elif isinstance(node, list):
        for item in node:
            yield from _tokens(item)
    else:
        yield repr(node)


def _has_docstring(node: ast.AST) -> bool:
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, owners) and ast.get_docstring(node, clean=False) is not None


@cache
def package_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the installed versions of packages whose version decides pixels."""
    return {name: importlib.metadata.version(name) for name in packages}


def path_digest(path: Path) -> str:
    """Return a digest of a file's content, or of a folder's file names and contents.

    Raises:
        DataError: if there is nothing at the path.
    """
    try:
        if path.is_file():
            return _file_digest(path, *_stamp(path))
        if not path.is_dir():
            raise DataError(f"{path}: nothing is there; correct the path in params.yaml or put the file there")
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest({file.relative_to(path).as_posix(): _file_digest(file, *_stamp(file)) for file in files})
    except OSError as error:
        raise DataError(
            f"{str(path)[:200]}: cannot be read: {error.strerror}; correct the path in params.yaml"
        ) from None


def remember_digests() -> None:
    """Note the digests computed by this process in `cache/`, so that large files are read once and not by every job.

    A noted digest holds as long as size, modification time and inode of the file are the same.
    """
    if not _computed:
        return
    REMEMBERED.parent.mkdir(parents=True, exist_ok=True)
    scratch = REMEMBERED.with_name(f".{REMEMBERED.name}.{os.getpid()}")
    scratch.write_text(json.dumps({**_remembered(), **_computed}), encoding="utf-8")
    scratch.replace(REMEMBERED)


_computed: dict[str, list[Any]] = {}


@cache
def _remembered() -> dict[str, list[Any]]:
    try:
        noted = json.loads(REMEMBERED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


@cache
def _file_digest(path: Path, *stamp: int) -> str:
    name = os.path.abspath(path)
    noted = _remembered().get(name)
    if isinstance(noted, list) and noted[:-1] == list(stamp):
        return str(noted[-1])
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if PACKAGE_DIR not in path.parents:
        _computed[name] = [*stamp, sha256]
    return sha256
