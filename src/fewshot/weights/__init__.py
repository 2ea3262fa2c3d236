"""Weights: a learner's tensors on disk, from this project and other programs, read without executing code."""
