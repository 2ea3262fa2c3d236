"""Weights: tensors of a learner on disk, ours and other programs', read without executing code."""
