"""What makes two jobs the same: digests of code by meaning and of package versions."""

import ast
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fewshot.digests import digest
from fewshot.paths import PACKAGE_DIR

PACKAGE = "fewshot"

# Modules that cannot change a number: they choose, type and name jobs (the outcome enters the key as settings),
# say where files lie, or word errors.
NEUTRAL = frozenset(
    f"{PACKAGE}{suffix}"
    for suffix in (
        "", ".errors", ".settings", ".registry", ".paths", ".digests", ".cli", ".progress",
        ".experiments", ".experiments.params", ".experiments.reader", ".experiments.matrix",
        ".workflow", ".workflow.identity", ".workflow.plan",
        ".backbones", ".heads", ".learners", ".datasets", ".episodes", ".evaluation",
        ".backbones.settings", ".learners.settings", ".datasets.settings",
    )
)  # fmt: skip


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
