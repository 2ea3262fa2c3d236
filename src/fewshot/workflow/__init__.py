"""Workflow: the jobs of a suite, their keys and the state of their results; it computes no numbers itself."""

# Modules that cannot change a number (workflow/identity.py).
NEUTRAL = ("identity", "plan", "planned_jobs")
