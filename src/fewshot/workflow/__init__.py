"""Workflow: which jobs a suite needs, under which keys, and what became of them; computes no number itself."""

# Modules that cannot change a number (workflow/identity.py).
NEUTRAL = ("identity", "plan")
