"""Weights from elsewhere: our exports and checkpoints of the original MetaOptNet program; no code in them is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from fewshot.errors import CheckpointError
from fewshot.learners.base import Learner
from fewshot.weights.checkpoint import fit_state

ORIGINAL_SECTIONS = ("embedding", "head")
ADVICE = "name an experiment with the backbone, learner and image size that the weights were trained with"


def load_foreign_weights(path: Path, learner: Learner) -> None:
    """Load a weights file into a learner of the same form.

    Args:
        path: a .safetensors file as `fewshot export` writes it, or a file that torch wrote: the state dictionaries
            `embedding` and `head` of the original program, with or without the prefix `module.`.
        learner: built from the experiment that the weights belong to.

    Raises:
        CheckpointError: if the file is missing, damaged, holds anything but tensors and plain containers, or does not
            fit; lists what does not fit.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: nothing is there; give the path of a weights file")
    if path.suffix == ".safetensors":
        fit_state(_read_safetensors(path), learner, source=str(path), advice=ADVICE)
        return
    content = _read_torch(path)
    if not all(section in content for section in ORIGINAL_SECTIONS):
        raise CheckpointError(
            f"{path}: holds {_shown(content)}; a checkpoint of the original program holds embedding and head"
        )
    own = learner.state_dict()
    tensors = {
        **_renamed(path, "embedding", content["embedding"], "backbone.", own),
        **_renamed(path, "head", content["head"], "head.", own),
    }
    fit_state(tensors, learner, source=str(path), advice=ADVICE)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); fetch or export it again") from None


def _read_torch(path: Path) -> Mapping[str, Any]:
    """Read a file written by torch.save, refusing anything but tensors and plain containers."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for foreign and damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: refused, not a plain file of tensors ({reason})") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not dictionaries of tensors")
    return content


def _renamed(path: Path, section: str, state: Any, prefix: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a section our names: theirs, without `module.`, behind a prefix."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: its {section} is not a dictionary of tensors")
    renamed = {prefix + str(name).removeprefix("module."): value for name, value in state.items()}
    # The original keeps the head's scale as a vector of one element.
    return {
        name: value.reshape(()) if name in own and own[name].ndim == 0 and value.numel() == 1 else value
        for name, value in renamed.items()
    }


def _shown(names: Mapping[Any, Any]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "") or "nothing"
