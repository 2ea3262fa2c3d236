"""What a backbone is. Shapes: N images, C x H x W, d features."""

from torch import Tensor, nn

from fewshot.errors import DataError, ParamsError


class Backbone(nn.Module):
    """Base class of backbones: float images (N, 3, H, W) -> embeddings (N, d).

    Attributes:
        image_size: side of the square images, pixels.
        embedding_size: d.
    """

    embedding_size: int

    def __init__(self, image_size: int, *, smallest: int = 1) -> None:
        """Raise `ParamsError` if `image_size` is below `smallest`, where no pixel would be left after pooling."""
        super().__init__()
        if image_size < smallest:
            raise ParamsError(
                f"image_size {image_size} is too small for this backbone: its poolings leave nothing of an image "
                f"below {smallest} pixels; raise image_size"
            )
        self.image_size = image_size

    def check(self, images: Tensor) -> None:
        """Raise `DataError` unless `images` is (N, 3, image_size, image_size)."""
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise DataError(
                f"the backbone was built for images (N, {', '.join(map(str, expected))}) but got "
                f"{tuple(images.shape)}; resize the images or build it with another image_size"
            )

    def set_step(self, step: int) -> None:
        """Tell schedules (DropBlock) the global outer step, from 0; called before the forward passes of a step."""
