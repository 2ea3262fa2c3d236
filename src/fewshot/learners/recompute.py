"""Inner steps whose graph is discarded and recomputed in the outer backward pass.

A second-order graph holds the activations of every inner step. Here only the fast weights between steps are kept, so
memory holds the graph of one step at a time. `torch.utils.checkpoint` does not help: the inner gradient within the step
triggers its recomputation during the forward pass, which increases memory use.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TensorsFunction = Callable[[list[Tensor], bool], list[Tensor]]


def recomputed(function: TensorsFunction, tensors: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
    """Return ``function(tensors, False)``, differentiable once with respect to `tensors` and `parameters`.

    Args:
        function: takes tensors and a flag that requests results with a graph; may use `parameters` directly.
        tensors: arguments of the function.
        parameters: all other leaf tensors that the function uses and that require a gradient.
    """
    return list(_Recomputed.apply(function, len(tensors), *tensors, *parameters))


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: TensorsFunction, n_tensors: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.function, ctx.parameters = function, inputs[n_tensors:]
        ctx.save_for_backward(*inputs[:n_tensors])
        with torch.enable_grad():
            outputs = function(_leaves(inputs[:n_tensors]), False)
        return tuple(output.detach() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        inputs = _leaves(ctx.saved_tensors)
        with torch.enable_grad():
            outputs = ctx.function(inputs, True)
        gradients = torch.autograd.grad(outputs, [*inputs, *ctx.parameters], cotangents, allow_unused=True)
        return (None, None, *gradients)


def _leaves(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [tensor.detach().requires_grad_() for tensor in tensors]
