"""The code part of a key: which modules a job uses, each with a digest of its meaning, and package versions.

A module's meaning is its syntax tree: comments, docstrings and layout do not count. The modules of a job are those
that its registry entries name, the common loop of its stage, and every module of this package that these import,
inside functions too. Modules that cannot change a number are left out:

* `__init__` files, which hold registries and exports. Their top-level imports are followed, and a name imported from
  one is followed to the module that defines it.
* the modules that a package lists as `NEUTRAL` in its `__init__`: those that select, type and name jobs (the outcome is
  in the key as settings), locate files, format messages, or refuse a job that lacks memory or disk space.
"""

import ast
import hashlib
import importlib.metadata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from fewshot.digests import KEY_LENGTH, recorded
from fewshot.paths import PACKAGE_DIR

PACKAGE = "fewshot"


def module_digests(modules: Iterable[str]) -> dict[str, str]:
    """Return, by name, the digest of each given module and of every module they use."""
    return _digests_of(tuple(dict.fromkeys(modules)))


@cache
def _digests_of(modules: tuple[str, ...]) -> dict[str, str]:
    return {module: _meaning(_source(module)) for module in imported_modules(modules)}


def imported_modules(modules: Iterable[str]) -> list[str]:
    """Return the modules and those of this package that they import, at any depth, sorted, without neutral ones."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen or _is_listed_neutral(module):
            continue
        seen.add(module)
        waiting.extend(_imports(module))
        parent = module.rpartition(".")[0]
        waiting.extend([parent] if parent else [])
    return sorted(module for module in seen if not is_neutral(module))


def is_neutral(module: str) -> bool:
    """Return whether a module cannot change a number: an `__init__`, or listed in its package's `NEUTRAL`."""
    return _is_package(module) or _is_listed_neutral(module)


def _is_listed_neutral(module: str) -> bool:
    package, _, name = module.rpartition(".")
    return bool(package) and name in neutral_names(package)


@cache
def neutral_names(package: str) -> tuple[str, ...]:
    """Return the constant `NEUTRAL` in a package's `__init__`, or ()."""
    for node in _tree(package).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "NEUTRAL" for t in node.targets):
            return tuple(ast.literal_eval(node.value))
    return ()


def _tree(module: str) -> ast.Module:
    return _parsed(_source(module))


@cache
def _parsed(source: bytes) -> ast.Module:
    return ast.parse(source)


@cache
def _source(module: str) -> bytes:
    return _source_file(module).read_bytes()


@cache
def _source_file(module: str) -> Path:
    base = PACKAGE_DIR.joinpath(*module.split(".")[1:])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _is_package(module: str) -> bool:
    return _source_file(module).name == "__init__.py"


def _is_module(name: str) -> bool:
    return name.split(".")[0] == PACKAGE and _source_file(name).is_file()


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Return the modules of this package that a module imports; for an `__init__`, only at its top level."""
    found: list[str] = []
    for node in _tree(module).body if _is_package(module) else _import_statements(_source(module)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if _is_module(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            found += _imported_from(node, module)
    return tuple(found)


@cache
def _import_statements(source: bytes) -> tuple[ast.AST, ...]:
    return tuple(node for node in ast.walk(_parsed(source)) if isinstance(node, (ast.Import, ast.ImportFrom)))


def _imported_from(node: ast.ImportFrom, module: str) -> list[str]:
    """Return the modules that a statement `from x import y` uses: x, and where y comes from."""
    source = _absolute(node, module)
    if not _is_module(source):
        return []
    found = [source]
    for alias in node.names:
        if _is_module(f"{source}.{alias.name}"):
            found.append(f"{source}.{alias.name}")
        elif _is_package(source):
            found += _exported_from(source, alias.name)
    return found


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """Return the full name of the module that an import statement names, which may be relative."""
    if node.level == 0:
        return node.module or ""
    above = node.level - (1 if _is_package(module) else 0)
    package = module.split(".")[: len(module.split(".")) - above]
    return ".".join([*package, *([node.module] if node.module else [])])


@cache
def _exported_from(package: str, name: str) -> tuple[str, ...]:
    """Return the modules from which a package's `__init__` exports a name, eagerly or lazily."""
    found: list[str] = []
    for node in ast.walk(_tree(package)):
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            found += _imported_from(node, package)
        elif isinstance(node, ast.Dict):
            found += _lazy_export(node, name)
    return tuple(module for module in found if module != package)


def _lazy_export(names: ast.Dict, name: str) -> list[str]:
    """Return the module of a name in a literal {name: module}, as `registry.lazy_exports` takes it."""
    pairs = zip(names.keys, names.values, strict=True)
    texts = [(k.value, v.value) for k, v in pairs if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)]
    return [module for key, module in texts if key == name and isinstance(module, str) and _is_module(module)]


@cache
def _meaning(source: bytes) -> str:
    text: list[str] = []
    _write(_parsed(source), text)
    return hashlib.sha256("".join(text).encode()).hexdigest()[:KEY_LENGTH]


def _write(node: Any, text: list[str]) -> None:
    """Add a syntax tree as text, without empty fields, so that Python versions with more fields agree."""
    if isinstance(node, ast.AST):
        text.append(f"({type(node).__name__}")
        body_start = 1 if _has_docstring(node) else 0
        for name in node._fields:
            value = getattr(node, name, None)
            if value is None or value == [] or name in ("kind", "type_comment"):
                continue
            text.append(f" {name}=")
            _write(value[body_start:] if name == "body" and isinstance(value, list) else value, text)
        text.append(")")
    elif isinstance(node, list):
        for item in node:
            _write(item, text)
    else:
        text.append(repr(node))


def _has_docstring(node: ast.AST) -> bool:
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, owners) and ast.get_docstring(node, clean=False) is not None


@cache
def package_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of the packages that determine the pixels: those installed, or recorded in a bundle."""
    known = recorded("packages")
    return {name: known[name] if name in known else importlib.metadata.version(name) for name in packages}
