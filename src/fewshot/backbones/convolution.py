"""A 3x3 convolution that takes the fastest form for its size on a CPU; elsewhere torch's.

Which form is taken depends on the size of maps and weights, on the precision and on nothing else of the machine: the
measurements behind the rule are in docs/benchmarks/convolutions.md.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from fewshot.backbones.columns import LARGEST_MAP_OF_WEIGHT, convolve_columns

Form = Literal["direct", "columns"]
FEWEST_CHANNELS_OF_COLUMNS = 320


class Convolution(nn.Conv2d):
    """3x3 convolution without bias, stride 1, padded by one pixel: maps (N, C, H, W) -> (N, D, H, W).

    Args:
        in_channels: C.
        out_channels: D.
        by_size: take the fastest form; False: always torch's.
    """

    def __init__(self, in_channels: int, out_channels: int, by_size: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        self.by_size = by_size

    def forward(self, maps: Tensor) -> Tensor:
        """Return the convolved maps, in the precision of autocast if it is on."""
        if not self.by_size or not _is_plain_call(maps):
            return F.conv2d(maps, self.weight, padding=1)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            maps, weight = maps.to(dtype), weight.to(dtype)
        if form_of(maps, weight) == "columns":
            return convolve_columns(maps, weight)
        return F.conv2d(maps, weight, padding=1)


def form_of(maps: Tensor, weight: Tensor) -> Form:
    """Return the fastest form on a CPU for maps (N, C, H, W) and weights (D, C, 3, 3)."""
    _, channels, height, width = maps.shape
    if maps.dtype == torch.bfloat16 and min(channels, len(weight)) >= FEWEST_CHANNELS_OF_COLUMNS:
        return "columns" if height * width <= LARGEST_MAP_OF_WEIGHT else "direct"
    return "direct"


def _is_plain_call(maps: Tensor) -> bool:
    """Return whether the maps are numbers on a CPU, not traced, exported, compiled, vectorised or transformed."""
    return (
        type(maps) is Tensor
        and maps.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )
