"""Experiments: what `params.yaml` asks for, typed and resolved, and the objects it describes; runs nothing."""
