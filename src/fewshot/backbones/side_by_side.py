"""A rule for `torch.func.vmap`: the maps of several tasks, each with weights of its own, side by side in the channels.

T convolutions become one in T groups, and T batch norms one of T * C channels, without a copy in between.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def is_vectorized(tensor: Tensor) -> bool:
    """Return whether the tensor stands for one of several within `torch.func.vmap`."""
    return bool(torch._C._functorch.is_batchedtensor(tensor))


def side_by_side(function: Callable[..., Tensor], maps: Tensor, *parameters: Tensor) -> Tensor:
    """Return ``function(T, maps, *parameters)``, where T is the number of tasks: 1 outside `torch.func.vmap`.

    Args:
        function: computes maps (N, T * D, h, w) in T groups of channels from maps (N, T * C, H, W) and parameters
            (T * D, ...); the parameters are contiguous.
        maps: (N, C, H, W) of one task.
        parameters: (D, ...) of one task or, not vectorised, of all.
    """
    if not is_vectorized(maps):
        return function(1, maps, *parameters)
    out: Tensor = _SideBySide.apply(function, maps, *parameters)
    return out


class _SideBySide(torch.autograd.Function):
    """Only a rule for vmap: it calls the function on ordinary tensors, which autograd differentiates as usual."""

    @staticmethod
    def forward(*_: Any) -> Tensor:
        raise AssertionError("called outside vmap")

    @staticmethod
    def setup_context(*_: Any) -> None:
        raise AssertionError("called outside vmap")

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, function: Callable[..., Tensor], maps: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, int]:
        n_tasks = info.batch_size
        stacked = [
            parameter.expand(n_tasks, *parameter.shape) if axis is None else parameter.movedim(axis, 0)
            for axis, parameter in zip(in_dims[2:], parameters, strict=True)
        ]
        merged = [parameter.flatten(0, 1).contiguous() for parameter in stacked]
        out = function(n_tasks, maps.movedim(in_dims[1], 1).flatten(1, 2), *merged)
        return out.unflatten(1, (n_tasks, -1)), 1
