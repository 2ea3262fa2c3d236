"""Pixels: no network, the baseline that every learned embedding should beat."""

from torch import Tensor

from fewshot.backbones.base import Backbone


class Pixels(Backbone):
    """The embedding is the flattened, normalised image; there are no parameters.

    Args:
        image_size: side of the square images, pixels.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__(image_size)
        self.embedding_size = 3 * image_size**2

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (N, 3 * H * W) of images (N, 3, H, W)."""
        self.check(images)
        return images.reshape(len(images), -1)
