"""Weights and checkpoints: written atomically, read without executing code, checked against the model.

A checkpoint file is the SHA-256 of the rest (32 bytes), then what `torch.save` writes.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fewshot.errors import CheckpointError, quoted_key, quoted_names, reason_of
from fewshot.files import write_atomic

FORMAT = 1
FROM_THE_START = "delete its folder to train from the start"
DIGEST_BYTES = hashlib.sha256().digest_size


class DamagedError(CheckpointError):
    """The content of a checkpoint, or of a state that it names, has changed since it was written."""


def save_weights(path: Path, learner: nn.Module) -> str:
    """Write all tensors of a learner (parameters and buffers) as safetensors; equal weights give equal bytes.

    Returns:
        The SHA-256 of the file in hexadecimal.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in learner.state_dict().items()}
    content = save(tensors)
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def load_weights(path: Path, learner: nn.Module) -> None:
    """Load tensors written by `save_weights` into a learner of the same architecture.

    Raises:
        CheckpointError: if the file is missing or damaged, or its tensors are not those of the learner.
    """
    advice = "delete it and rerun: it is restored or recomputed"
    fit_state(read_safetensors(path, advice=advice), learner, source=str(path), advice=advice)


def read_safetensors(path: Path, *, advice: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Args:
        path: of the file.
        advice: what to do if it cannot be read, for the error.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable weights file ({reason_of(error)}); {advice}") from None


def fit_state(tensors: Mapping[str, Tensor], learner: nn.Module, *, source: str, advice: str = FROM_THE_START) -> None:
    """Load tensors into a learner.

    Args:
        tensors: by the names of the learner's parameters and buffers.
        learner: of the same architecture.
        source: file to name in the error.
        advice: what to do if they do not fit, for the error.

    Raises:
        CheckpointError: listing the tensors that are missing, unexpected or of a different shape.
    """
    own = learner.state_dict()
    missing = sorted(own.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - own.keys())
    other = [
        f"{quoted_key(name)} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    problems = [
        f"{what}: {quoted_names(names)}"
        for what, names in (("missing", missing), ("not of this model", unknown), ("of a different shape", other))
        if names
    ]
    if problems:
        raise CheckpointError(f"{source}: does not fit the model; {'; '.join(problems)}; {advice}")
    learner.load_state_dict(dict(tensors))


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values to resume from, atomically."""
    content = io.BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    write_atomic(path, hashlib.sha256(content.getbuffer()).digest() + content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint written by `save_checkpoint`; None if there is none.

    Raises:
        DamagedError: if the file has changed since it was written.
        CheckpointError: if it has a different format.
    """
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from None
    content = memoryview(written)[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != written[:DIGEST_BYTES]:
        raise DamagedError(f"{path}: damaged (its sha256 differs from the one it was written with)")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for what it does not read
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__}); {FROM_THE_START}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a checkpoint of a different format; {FROM_THE_START}")
    return state
