"""Differentiable convex solvers with certificates: Crammer-Singer support vector machines, box-constrained programs.

This folder imports nothing from the surrounding package; its own `pyproject.toml` builds it as a separate distribution.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .box import box_program
    from .certificate import kkt_residual
    from .multiclass_svm import crammer_singer
    from .problem import Problem
    from .solution import Solution

__all__ = ["Problem", "Solution", "box_program", "crammer_singer", "kkt_residual"]

_MODULES = {
    "Problem": "problem",
    "Solution": "solution",
    "box_program": "box",
    "crammer_singer": "multiclass_svm",
    "kkt_residual": "certificate",
}


def __getattr__(name: str) -> Any:
    """Import an exported name on first use, so that a program loads only the solver it calls."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
