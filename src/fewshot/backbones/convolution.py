"""A 3x3 convolution that takes the fastest form for its size on a CPU; elsewhere torch's.

The form depends on the sizes of maps and weights and on their precision, never on the machine, so that results do not:

    precision  channels (both)  maps                        form
    bfloat16   320 or more      up to 5 x 5 pixels          columns
    bfloat16   320 or more      up to 10 x 10 pixels        columns, only for the gradient of the weights
    float32    160 or more      24 or more tiles of 4 x 4   winograd
    otherwise                                               direct: torch's

docs/benchmarks/convolutions.md has the measurements.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.columns import LARGEST_MAP_OF_WEIGHT, convolve_columns
from fewshot.backbones.plain_calls import is_plain_call
from fewshot.backbones.winograd import convolve_winograd, count_tiles

Form = Literal["direct", "columns", "winograd"]
FEWEST_CHANNELS = {torch.bfloat16: 320, torch.float32: 160}
FEWEST_TILES = 24  # with fewer, transforming the kernels takes longer than is saved


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
        if not self.by_size or not is_plain_call(maps):
            return F.conv2d(maps, self.weight, padding=1)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            maps, weight = maps.to(dtype), weight.to(dtype)
        match form_of(maps, weight):
            case "columns":
                return convolve_columns(maps, weight)
            case "winograd":
                return convolve_winograd(maps, weight)
            case "direct":
                return F.conv2d(maps, weight, padding=1)


def form_of(maps: Tensor, weight: Tensor) -> Form:
    """Return the fastest form on a CPU for maps (N, C, H, W) and weights (D, C, 3, 3)."""
    fewest = FEWEST_CHANNELS.get(maps.dtype)
    if fewest is None or min(weight.shape[:2]) < fewest:
        return "direct"
    if maps.dtype == torch.bfloat16:
        return "columns" if maps.shape[2] * maps.shape[3] <= LARGEST_MAP_OF_WEIGHT else "direct"
    return "winograd" if count_tiles(maps) >= FEWEST_TILES else "direct"
