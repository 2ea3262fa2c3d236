"""Weights: a learner's tensors on disk, this project's and other programs', read without executing code."""
