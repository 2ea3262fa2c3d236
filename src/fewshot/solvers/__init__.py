"""Convex solvers with certificates and gradients: the Crammer-Singer support vector machine, box-constrained programs.

The folder imports nothing of the package around it: `pyproject.toml` here builds it as a distribution of its own.
"""

from .box import box_program
from .certificate import kkt_residual
from .multiclass_svm import crammer_singer
from .problem import Problem
from .solution import Solution

__all__ = ["Problem", "Solution", "box_program", "crammer_singer", "kkt_residual"]
