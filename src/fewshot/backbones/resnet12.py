"""ResNet-12 of MetaOptNet (Lee et al., CVPR 2019): four residual blocks of 64, 160, 320 and 640 channels.

Parameters are named and ordered as in the release, so its checkpoints can be loaded. Details the paper leaves open
follow the release: no global pooling at the end (`pooling` "mean" adds it, as in RFS); a projection in every block;
ordinary dropout after blocks 1 and 2, DropBlock after blocks 3 and 4; normal initialisation with the gain of a ReLU,
although the slope is 0.1.
"""

from copy import copy
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.base import Backbone
from fewshot.backbones.convolution import Convolution
from fewshot.backbones.dropblock import DropBlock, DropBlockMode
from fewshot.backbones.settings import Pooling, ResNet12Settings
from fewshot.settings import parse_as

WIDTHS = (64, 160, 320, 640)
SLOPE = 0.1


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions in parallel with a 1x1 projection, summed, 2x2 max-pooled, with dropout.

    Args:
        in_channels: channels of the input.
        out_channels: channels of all four convolutions.
        drop: dropout applied to the pooled sum.
        by_size: compute the 3x3 convolutions in the form that is fastest for their size, see `Convolution`.
    """

    def __init__(self, in_channels: int, out_channels: int, drop: nn.Module, by_size: bool = True) -> None:
        super().__init__()
        self.conv1 = Convolution(in_channels, out_channels, by_size)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = Convolution(out_channels, out_channels, by_size)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv3 = Convolution(out_channels, out_channels, by_size)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of half the side (rounded down) of maps (N, C, H, W)."""
        h = F.leaky_relu(self.bn1(self.conv1(x)), SLOPE, inplace=True)
        h = F.leaky_relu(self.bn2(self.conv2(h)), SLOPE, inplace=True)
        h = self.bn3(self.conv3(h)) + self.downsample(x)
        # The release pools after the activation; the two commute, and this order activates a quarter of the pixels.
        return self.drop(F.leaky_relu(F.max_pool2d(h, 2), SLOPE, inplace=True))


class ResNet12(Backbone):
    """Four residual blocks; the embedding is the last map, flattened or averaged over its pixels.

    Args:
        image_size: side of the square images, pixels; at least 16 (flattened: 16000 features at 84 pixels, 2560 at 32).
        drop_rate: probability of dropout after blocks 1 and 2, final rate of DropBlock after blocks 3 and 4.
        dropblock: "ramp", "off" or "as_released", see `DropBlock`; "off" keeps the dropout of blocks 1 and 2.
        dropblock_size: side of the dropped squares; None means 5, or at most 2 if the last map is smaller than 5 x 5.
        dropblock_ramp_steps: outer steps until DropBlock reaches its final rate.
        init_slope: LeakyReLU slope assumed by the initialisation gain.
        pooling: "flatten", or "mean" for an embedding of 640 features.
        convolutions: "by_size": on a CPU, each 3x3 convolution in the fastest form for its size; "direct": torch's.
    """

    def __init__(
        self,
        image_size: int,
        drop_rate: float = 0.1,
        dropblock: DropBlockMode = "ramp",
        dropblock_size: int | None = None,
        dropblock_ramp_steps: int = 20_000,
        init_slope: float = 0.0,
        pooling: Pooling = "flatten",
        convolutions: Literal["by_size", "direct"] = "by_size",
    ) -> None:
        super().__init__(image_size, smallest=16)
        settings = {
            "drop_rate": drop_rate,
            "dropblock": dropblock,
            "dropblock_size": dropblock_size,
            "dropblock_ramp_steps": dropblock_ramp_steps,
            "init_slope": init_slope,
            "pooling": pooling,
            "convolutions": convolutions,
        }
        parse_as(ResNet12Settings, settings, where="")
        side = last_map_side(image_size)
        block_size = dropblock_size or (5 if side >= 5 else min(2, side))

        def squares(map_size: int) -> DropBlock:
            return DropBlock(map_size, block_size, drop_rate, dropblock_ramp_steps, dropblock)

        drops = [nn.Dropout(drop_rate), nn.Dropout(drop_rate), squares(image_size // 8), squares(side)]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(ResidualBlock(before, width, drop, convolutions == "by_size"))
            for before, width, drop in zip((3, *WIDTHS[:-1]), WIDTHS, drops, strict=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=init_slope, mode="fan_out", nonlinearity="leaky_relu")
        self._pool(pooling)

    def _pool(self, pooling: Pooling) -> None:
        self.averages = pooling == "mean"
        self.embedding_size = WIDTHS[-1] * (1 if self.averages else last_map_side(self.image_size) ** 2)

    def with_pooling(self, pooling: Pooling) -> "ResNet12":
        """Return a ResNet-12 with the same blocks (shared) and another pooling."""
        changed = copy(self)
        changed._pool(pooling)
        return changed

    def set_step(self, step: int) -> None:
        """Set the DropBlock rate from the global outer step (from 0)."""
        for module in self.modules():
            if isinstance(module, DropBlock):
                module.set_step(step)

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (N, d) of images (N, 3, H, W)."""
        self.check(images)
        maps = self.layer4(self.layer3(self.layer2(self.layer1(images))))
        return maps.mean((2, 3)) if self.averages else maps.reshape(len(images), -1)


def last_map_side(image_size: int) -> int:
    """Return the side of the last map, pixels."""
    return image_size // 16
