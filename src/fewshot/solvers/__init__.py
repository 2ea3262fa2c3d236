"""Differentiable convex solvers with certificates: Crammer-Singer support vector machines, box-constrained programs.

This folder imports nothing from the surrounding package; its own `pyproject.toml` builds it as a separate distribution.
"""

from .box import box_program
from .certificate import kkt_residual
from .multiclass_svm import crammer_singer
from .problem import Problem
from .solution import Solution

__all__ = ["Problem", "Solution", "box_program", "crammer_singer", "kkt_residual"]
