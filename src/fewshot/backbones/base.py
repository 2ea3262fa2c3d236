"""The backbone interface. Shapes: N images, C x H x W, d features."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fewshot.backbones.settings import Pooling
from fewshot.errors import DataError, ParamsError, quoted


class Backbone(nn.Module):
    """Base class of backbones: float images (N, 3, H, W) -> embeddings (N, d).

    Attributes:
        image_size: side of the square images, pixels.
        embedding_size: d.
    """

    embedding_size: int

    def __init__(self, image_size: int, *, smallest: int = 1) -> None:
        """Raise `ParamsError` if `image_size` is below `smallest`, which would leave no pixel after pooling."""
        super().__init__()
        if not hasattr(image_size, "__index__"):
            raise ParamsError(f"image_size {quoted(image_size)} is not allowed: it should be an integer, in pixels")
        if image_size < smallest:
            raise ParamsError(
                f"image_size {image_size} is too small for this backbone: its pooling layers reduce an image below "
                f"{smallest} pixels to nothing; raise image_size"
            )
        self.image_size = image_size

    def check(self, images: Tensor) -> None:
        """Raise `DataError` unless `images` is (N, 3, image_size, image_size) and floating point."""
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise DataError(
                f"the backbone was built for images (N, {', '.join(map(str, expected))}) but got "
                f"{tuple(images.shape)}; resize the images or build it with another image_size"
            )
        if not images.is_floating_point():
            raise DataError(
                f"the backbone takes floating-point images but got {images.dtype}; convert and normalise them"
            )

    def with_pooling(self, pooling: Pooling) -> "Backbone":
        """Return a backbone with the same layers (shared, with their mode) whose last map is embedded in another way.

        Raises:
            ParamsError: if there is no choice.
        """
        raise ParamsError(f"{type(self).__name__} has no choice of pooling; leave pooling out")

    def set_step(self, step: int) -> None:
        """Set the global outer step (from 0) for schedules such as DropBlock's; called before each step's forward."""


@torch.no_grad()
def embedding_size(backbone: nn.Module, image_size: int) -> int:
    """Return d: the backbone's attribute `embedding_size`, or the width of its embeddings of two blank images.

    Embedding images also gives lazy layers their weights.

    Args:
        backbone: (N, 3, H, W) -> (N, d).
        image_size: side of the square images, pixels.

    Raises:
        ParamsError: if the backbone has no such attribute and cannot embed images of this size.
    """
    known = getattr(backbone, "embedding_size", None)
    if known is not None and not has_lazy_weights(backbone):
        return int(known)
    example = next(backbone.parameters(), torch.zeros(()))
    images = torch.zeros(2, 3, image_size, image_size, dtype=example.dtype, device=example.device)
    training = backbone.training
    try:
        embeddings = backbone.eval()(images)
        check_embeddings(embeddings)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ParamsError(
            f"{type(backbone).__name__} does not embed images (N, 3, {image_size}, {image_size}): {error}; set "
            "image_size in the LearnerContext, or give the backbone an attribute embedding_size"
        ) from error
    finally:
        backbone.train(training)
    return int(embeddings.shape[1])


def check_embeddings(embeddings: object) -> None:
    """Raise `ParamsError` unless the result of a backbone is one tensor (N, d)."""
    if not isinstance(embeddings, Tensor):
        raise ParamsError(f"the backbone returns a {type(embeddings).__name__}, not a tensor (N, d)")
    if embeddings.ndim != 2:
        raise ParamsError(f"the result of the backbone has the shape {tuple(embeddings.shape)}, not (N, d)")


def has_lazy_weights(backbone: nn.Module) -> bool:
    """Return whether a layer has no weights yet, because it takes its size from the first images it sees."""
    return any(is_lazy(value) for value in (*backbone.parameters(), *backbone.buffers()))


def check_module(backbone: object) -> None:
    """Raise `TypeError` unless a backbone is a module."""
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"backbone is {quoted(backbone)}; allowed: a torch module (N, C, H, W) -> (N, d)")
