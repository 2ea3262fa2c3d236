"""Experiments: `params.yaml`, typed and resolved, and the objects it describes; nothing is run here."""

# Modules that cannot change a number (workflow/identity.py); their outcome is in the key as settings.
NEUTRAL = ("checks", "experiment", "fits", "matrix", "named", "params", "plain_yaml", "reader")
