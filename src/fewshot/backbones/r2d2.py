"""The network of R2D2 (Bertinetto et al., ICLR 2019), as used by MetaOptNet: four wide blocks, two concatenated.

Parameters are named and ordered as in the MetaOptNet release, so its checkpoints can be loaded.
"""

import torch
from torch import Tensor, nn

from fewshot.backbones.base import Backbone
from fewshot.backbones.pooled_block import PooledBlock
from fewshot.backbones.settings import R2D2Settings
from fewshot.settings import parse_as

WIDTHS = (96, 192, 384, 512)


def _block(in_channels: int, out_channels: int, *, slope: float = 0.1) -> PooledBlock:
    """Return a 3x3 convolution with bias, batch norm, 2x2 max-pool, LeakyReLU with this slope."""
    return PooledBlock(nn.Conv2d(in_channels, out_channels, 3, padding=1), slope)


class R2D2Net(Backbone):
    """Blocks of 96, 192, 384 and 512 channels; the embedding concatenates the flattened outputs of blocks 3 and 4.

    Weights have torch's default initialisation, as in the release.

    Args:
        image_size: side of the square images, pixels; at least 16 (51200 features at 84 pixels, 8192 at 32).
        dropout3: probability of element-wise dropout at the end of block 3 (block 4 receives the result).
        dropout4: likewise at the end of block 4, which has no activation.
    """

    def __init__(self, image_size: int, dropout3: float = 0.1, dropout4: float = 0.3) -> None:
        super().__init__(image_size, smallest=16)
        parse_as(R2D2Settings, {"dropout3": dropout3, "dropout4": dropout4}, where="")
        self.block1 = _block(3, WIDTHS[0])
        self.block2 = _block(WIDTHS[0], WIDTHS[1])
        self.block3 = _block(WIDTHS[1], WIDTHS[2])
        self.dropout3 = nn.Dropout(dropout3)
        self.block4 = _block(WIDTHS[2], WIDTHS[3], slope=1)
        self.dropout4 = nn.Dropout(dropout4)
        self.embedding_size = WIDTHS[2] * (image_size // 8) ** 2 + WIDTHS[3] * (image_size // 16) ** 2

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (N, d) of images (N, 3, H, W)."""
        self.check(images)
        block3 = self.dropout3(self.block3(self.block2(self.block1(images))))
        block4 = self.dropout4(self.block4(block3))
        return torch.cat([block3.reshape(len(images), -1), block4.reshape(len(images), -1)], dim=1)
