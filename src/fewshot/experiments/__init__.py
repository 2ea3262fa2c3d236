"""Experiments: what `params.yaml` asks for, typed and resolved, and the objects it describes; runs nothing."""

# Modules that cannot change a number (workflow/identity.py); what they decide enters the key as settings.
NEUTRAL = ("matrix", "params", "reader")
