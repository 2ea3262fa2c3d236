"""Estimate of the memory occupied by feature maps, from a dry run of the backbone without data."""

import copy

import torch
from torch import Tensor, nn


def map_bytes(backbone: nn.Module, image_size: int) -> int:
    """Return the size of all layers' outputs for one image, bytes: roughly what autograd keeps.

    Args:
        backbone: (N, 3, H, W) -> (N, d); run on PyTorch's `meta` device, which computes shapes only.
        image_size: side of the square images, pixels.
    """
    rehearsal = copy.deepcopy(backbone).to("meta").train()
    dtype = next((parameter.dtype for parameter in rehearsal.parameters()), torch.float32)
    outputs: list[int] = []
    for layer in rehearsal.modules():
        if not any(layer.children()):
            layer.register_forward_hook(lambda layer, inputs, output: outputs.append(_bytes(output)))
    rehearsal(torch.empty(2, 3, image_size, image_size, dtype=dtype, device="meta"))
    return sum(outputs) // 2


def _bytes(output: object) -> int:
    return output.nbytes if isinstance(output, Tensor) else 0
