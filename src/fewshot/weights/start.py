"""Start a training from the backbone of another one."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from fewshot.weights.checkpoint import fit_state, read_safetensors

PREFIXES = ("backbone.", "network.backbone.")
"""Where learners keep their backbone: those with a head, and those that adapt the whole network."""


def load_backbone(path: Path, backbone: nn.Module) -> None:
    """Load the backbone of a finished training; whatever else it learned, such as a head's scale, is not used.

    Running statistics are left out where the backbone keeps none, and a batch-norm weight or bias is repeated where it
    has one for each inner step.

    Args:
        path: weights.safetensors of the finished training.
        backbone: of the same architecture; its weights are changed.

    Raises:
        CheckpointError: if the file is missing or damaged, or the tensors do not fit.
    """
    advice = "delete it and rerun: it is restored or recomputed"
    stored = _of_backbone(read_safetensors(path, advice=advice))
    own = backbone.state_dict()
    fitting = {
        name: _for_each_step(value, own[name]) if name in own else value
        for name, value in stored.items()
        if name in own or not _is_statistic(name)
    }
    fit_state(fitting, backbone, source=str(path), advice=advice)


def _of_backbone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the backbone under the names that it gives them."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        for prefix in PREFIXES
        if name.startswith(prefix)
    }


def _for_each_step(value: Tensor, own: Tensor) -> Tensor:
    """Return a vector (C) once for each inner step, if the backbone has (steps, C) in its place."""
    repeats = value.ndim == 1 and own.ndim == 2 and own.shape[1:] == value.shape
    return value.expand_as(own) if repeats else value


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))
