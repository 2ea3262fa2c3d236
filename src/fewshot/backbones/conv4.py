"""Conv4, the four-layer network of Prototypical Networks (Snell et al., NeurIPS 2017), as used by MetaOptNet.

Parameters are named and ordered as in the MetaOptNet release, so its checkpoints can be loaded.
"""

from collections import OrderedDict

from torch import Tensor, nn

from fewshot.backbones.base import Backbone
from fewshot.backbones.pooled_block import PooledBlock
from fewshot.backbones.settings import Conv4Settings
from fewshot.settings import parse_as


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 3x3 convolution without bias, batch norm, 2x2 max-pool, ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.normal_(convolution.weight, std=(2 / (9 * out_channels)) ** 0.5)
    return nn.Sequential(OrderedDict(block=PooledBlock(convolution, slope=0)))


class Conv4(Backbone):
    """Four identical blocks; the flattened last map is the embedding (no global pooling).

    Convolution weights are initialised from N(0, 2 / (9 * filters)), batch-norm weights to 1 and biases to 0.

    Args:
        image_size: side of the square images, pixels; at least 16.
        filters: channels of every layer; 64 in the paper (1600 features at 84 pixels, 256 at 32).
    """

    def __init__(self, image_size: int, filters: int = 64) -> None:
        super().__init__(image_size, smallest=16)
        parse_as(Conv4Settings, {"filters": filters}, where="")
        self.encoder = nn.Sequential(*(_block(3 if i == 0 else filters, filters) for i in range(4)))
        self.embedding_size = filters * (image_size // 16) ** 2

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (N, d) of images (N, 3, H, W)."""
        self.check(images)
        features = self.encoder(images)
        return features.reshape(len(images), -1)
