"""Memory of an outer step: a training run is refused if its GPU cannot hold one; running out later is explained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fewshot.errors import ResourceError
from fewshot.experiments.experiment import Experiment

ESTIMATE_FACTOR = 2  # learners estimate their memory within this factor, so only what exceeds it cannot fit
MIB = 2**20


def check_memory(experiment: Experiment, step_bytes: int | None, device: torch.device) -> None:
    """Refuse a training run whose outer step cannot fit in the memory of its GPU.

    Args:
        experiment: named in the error, with the settings to lower.
        step_bytes: the learner's estimate for one outer step, correct to within a factor of 2; None if unknown.
        device: where the step is computed; only GPUs are checked, because a CPU's memory is shared with other jobs.

    Raises:
        ResourceError: if even half the estimate exceeds the GPU's total memory.
    """
    total = total_memory(device)
    if step_bytes is None or total is None or step_bytes <= ESTIMATE_FACTOR * total:
        return
    raise ResourceError(
        f"{experiment.name}: an outer step needs about {step_bytes / MIB:,.0f} MiB, but {device} has "
        f"{total / MIB:,.0f} MiB; {_advice(experiment)}"
    )


def total_memory(device: torch.device) -> int | None:
    """Return the memory of a GPU in bytes; None for other devices."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


@contextmanager
def memory_errors(experiment: Experiment, *, evaluating: bool = False) -> Iterator[None]:
    """Turn "out of memory" into an error that names the settings to lower.

    Args:
        experiment: what is computed.
        evaluating: whether it is evaluated rather than trained.

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
        advice = _advice_for_evaluation(experiment) if evaluating else _advice(experiment)
        raise ResourceError(f"{experiment.name}: out of memory; {advice}") from error


def _advice_for_evaluation(experiment: Experiment) -> str:
    """Return what lowers the memory of an evaluation."""
    more = ", or set train.jobs_per_gpu: 1" if torch.cuda.is_available() else ", or run fewer jobs at once (--cores)"
    half = f"train with recipes.{experiment.recipe_name}.precision: bfloat16 (learners with a head), "
    lower = "lower evaluate.shots, evaluate.n_query or backbone.filters"
    return f"{half if experiment.recipe.precision != 'bfloat16' else ''}{lower}{more}"


def _advice(experiment: Experiment) -> str:
    """Return which settings reduce the memory of a step; only learners with a head run in bfloat16."""
    recipe, section = experiment.recipe, f"recipes.{experiment.recipe_name}"
    precision = (
        f"set {section}.precision: bfloat16 (learners with a head), or " if recipe.precision != "bfloat16" else ""
    )
    if recipe.batch_size:
        return f"{precision}lower {section}.batch_size or backbone.filters"
    return (
        f"{precision}lower {section}.episodes_per_backward (1 needs least; batch-norm statistics then cover fewer "
        "episodes), n_shot or backbone.filters"
    )
