"""Memory of an outer step: explained if it runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fewshot.errors import ResourceError
from fewshot.experiments.matrix import Experiment

MIB = 2**20


@contextmanager
def memory_errors(experiment: Experiment) -> Iterator[None]:
    """Turn "out of memory" into an error that names the settings to lower.

    Raises:
        ResourceError: in place of a MemoryError, or of torch's error for a failed allocation.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(
            error
        )
        if not out_of_memory:
            raise
        raise ResourceError(f"{experiment.name}: out of memory; {_advice(experiment)}") from error


def _advice(experiment: Experiment) -> str:
    """Return which settings lower the memory of a step; only learners with a head run in bfloat16."""
    recipe, section = experiment.recipe, f"recipes.{experiment.recipe_name}"
    precision = (
        f"set {section}.precision: bfloat16 (learners with a head), or " if recipe.precision == "float32" else ""
    )
    return (
        f"{precision}lower {section}.episodes_per_backward (1 needs least; batch-norm statistics then cover fewer "
        "episodes), n_shot or backbone.filters"
    )
