"""Weights from elsewhere, exports of this project and checkpoints of the original MetaOptNet program, read without
executing code."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.errors import CheckpointError, quoted_key, quoted_names, reason_of
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
        CheckpointError: if the file is missing or damaged, holds anything but tensors and plain containers, or numbers
            that are not finite, or does not fit the learner; the message lists what does not fit.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{quoted_key(str(path))}: {found}; give the path of a weights file")
    if path.suffix == ".safetensors":
        tensors = read_safetensors(path, advice="download or export it again")
        _check_numbers(path, tensors)
    else:
        tensors = _read_original(path, learner.state_dict())
    fit_state(tensors, learner, source=str(path), advice=ADVICE)


def _read_original(path: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint of the original program, under this project's names."""
    content = _read_torch(path)
    if not all(section in content for section in ORIGINAL_SECTIONS):
        raise CheckpointError(
            f"{path}: holds {quoted_names(content, 5)}; a checkpoint of the original program holds embedding and head"
        )
    return {
        **_renamed(path, "embedding", content["embedding"], "backbone.", own),
        **_renamed(path, "head", content["head"], "head.", own),
    }


def _read_torch(path: Path) -> Mapping[str, Any]:
    """Read a file written by torch.save, refusing anything but tensors and plain containers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as for the protocol of another pickle writer
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
    _check_numbers(path, state)
    renamed = {prefix + str(name).removeprefix("module."): value for name, value in state.items()}
    # The original stores the head's scale as a vector of one element.
    return {
        name: value.reshape(()) if name in own and own[name].ndim == 0 and value.numel() == 1 else value
        for name, value in renamed.items()
    }


def _check_numbers(path: Path, tensors: Mapping[Any, Tensor]) -> None:
    """Raise `CheckpointError` unless all tensors are ordinary arrays of finite real numbers."""
    for name, value in tensors.items():
        ordinary = value.layout == torch.strided and not (value.is_nested or value.is_quantized or value.is_meta)
        if not ordinary or value.is_complex() or value.dtype == torch.bool:
            kind = f"{value.dtype} tensor" if ordinary else "sparse, nested, quantized or empty tensor"
            raise CheckpointError(f"{path}: {quoted_key(str(name))} is a {kind}; weights are dense real numbers")
        if value.is_floating_point() and not value.float().isfinite().all():
            raise CheckpointError(f"{path}: {quoted_key(str(name))} has values that are not finite; use another file")
