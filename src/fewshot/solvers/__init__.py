"""Convex solvers: mathematics only. The Crammer-Singer support vector machine, and box-constrained programs."""

from fewshot.solvers.multiclass_svm import Solution, crammer_singer

__all__ = ["Solution", "crammer_singer"]
