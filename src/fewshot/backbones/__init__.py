"""Backbones: images (N, C, H, W) -> embeddings (N, d). One file per backbone; register it here."""

from typing import TYPE_CHECKING, Any

from fewshot.backbones.settings import Conv4MAMLSettings, Conv4Settings, R2D2Settings, ResNet12Settings
from fewshot.registry import Part, find_part, lazy_exports

if TYPE_CHECKING:
    from fewshot.backbones.base import Backbone
    from fewshot.backbones.conv4 import Conv4
    from fewshot.backbones.conv4_maml import Conv4MAML
    from fewshot.backbones.pixels import Pixels
    from fewshot.backbones.r2d2 import R2D2Net
    from fewshot.backbones.resnet12 import ResNet12

__all__ = ["BACKBONES", "Backbone", "Conv4", "Conv4MAML", "Pixels", "R2D2Net", "ResNet12", "build_backbone"]

__getattr__ = lazy_exports(
    __name__,
    {
        "Backbone": "fewshot.backbones.base",
        "Conv4": "fewshot.backbones.conv4",
        "Conv4MAML": "fewshot.backbones.conv4_maml",
        "Pixels": "fewshot.backbones.pixels",
        "R2D2Net": "fewshot.backbones.r2d2",
        "ResNet12": "fewshot.backbones.resnet12",
    },
)


def __dir__() -> list[str]:
    return __all__


# Modules that cannot change a number (workflow/identity.py): the settings enter the key by their values.
NEUTRAL = ("settings",)

BACKBONES: dict[str, Part] = {
    "conv4": Part("fewshot.backbones.conv4:Conv4", Conv4Settings),
    "conv4_maml": Part("fewshot.backbones.conv4_maml:Conv4MAML", Conv4MAMLSettings),
    "r2d2": Part("fewshot.backbones.r2d2:R2D2Net", R2D2Settings),
    "resnet12": Part("fewshot.backbones.resnet12:ResNet12", ResNet12Settings),
    "pixels": Part("fewshot.backbones.pixels:Pixels"),
}


def build_backbone(name: str, *, image_size: int, **settings: Any) -> "Backbone":
    """Build a backbone by name.

    Args:
        name: an entry of `BACKBONES`.
        image_size: side of the square images, pixels.
        settings: settings that differ from the defaults.

    Raises:
        ParamsError: if the name or a setting is unknown, or a setting is out of range.

    >>> import torch
    >>> backbone = build_backbone("conv4", image_size=84, filters=32)
    >>> backbone.embedding_size, backbone(torch.rand(2, 3, 84, 84)).shape
    (800, torch.Size([2, 800]))
    """
    part = find_part("backbone", name, BACKBONES)
    backbone: Backbone = part.load()(image_size=image_size, **part.typed(settings).model_dump())
    return backbone
