"""Weights from elsewhere, exports of this project and checkpoints of the original MetaOptNet program, read without
executing code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.errors import CheckpointError, reason_of
from fewshot.weights.checkpoint import fit_state, read_safetensors

ORIGINAL_SECTIONS = ("embedding", "head")
ADVICE = "name an experiment with the backbone, learner and image size that the weights were trained with"


def load_foreign_weights(path: Path, learner: nn.Module) -> None:
    """Load a weights file into a learner of the same architecture.

    Args:
        path: a .safetensors file written by `fewshot export`, or a torch file with the original program's state
            dictionaries `embedding` and `head`; their keys may have the prefix `module.`.
        learner: built from the experiment that the weights belong to.

    Raises:
        CheckpointError: if the file is missing or damaged, holds anything but tensors and plain containers, or does
            not fit the learner; the message lists what does not fit.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a weights file")
    if path.suffix == ".safetensors":
        tensors = read_safetensors(path, advice="download or export it again")
    else:
        tensors = _read_original(path, learner.state_dict())
    fit_state(tensors, learner, source=str(path), advice=ADVICE)


def _read_original(path: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint of the original program, under this project's names."""
    content = _read_torch(path)
    if not all(section in content for section in ORIGINAL_SECTIONS):
        raise CheckpointError(
            f"{path}: holds {_shown(content)}; a checkpoint of the original program holds embedding and head"
        )
    return {
        **_renamed(path, "embedding", content["embedding"], "backbone.", own),
        **_renamed(path, "head", content["head"], "head.", own),
    }


def _read_torch(path: Path) -> Mapping[str, Any]:
    """Read a file written by torch.save, refusing anything but tensors and plain containers."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for foreign and damaged files
        raise CheckpointError(
            f"{path}: refused, because it is not a plain file of tensors ({reason_of(error)})"
        ) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not dictionaries of tensors")
    return content


def _renamed(path: Path, section: str, state: Any, prefix: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a section under this project's names: `prefix` in place of `module.`."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: its {section} is not a dictionary of tensors")
    renamed = {prefix + str(name).removeprefix("module."): value for name, value in state.items()}
    # The original stores the head's scale as a vector of one element.
    return {
        name: value.reshape(()) if name in own and own[name].ndim == 0 and value.numel() == 1 else value
        for name, value in renamed.items()
    }


def _shown(names: Mapping[Any, Any]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "") or "nothing"
