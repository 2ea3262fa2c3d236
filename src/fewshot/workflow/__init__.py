"""Workflow: which jobs a suite needs, under which keys, and what became of them; computes no number itself."""
