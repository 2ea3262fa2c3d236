"""The gradients of a 3x3 convolution as torch computes them, for functions that have derivatives of their own."""

import torch
from torch import Tensor


def direct_gradients(
    cotangent: Tensor, maps: Tensor, weight: Tensor, *, of_maps: bool, of_weight: bool, groups: int = 1
) -> tuple[Tensor | None, Tensor | None]:
    """Return the wanted gradients of a 3x3 convolution padded by one pixel; they can be differentiated.

    Args:
        cotangent: of the output, (N, D, H, W).
        maps: (N, C, H, W).
        weight: (D, C / groups, 3, 3).
        of_maps: whether that with respect to the maps is wanted.
        of_weight: likewise the weights.
        groups: of channels, convolved independently.
    """
    of_both = torch.ops.aten.convolution_backward(
        cotangent, maps, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], groups, [of_maps, of_weight, False]
    )
    return of_both[0], of_both[1]
