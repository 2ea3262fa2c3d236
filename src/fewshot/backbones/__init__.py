"""Backbones: images (N, C, H, W) -> embeddings (N, d). One file a backbone, one entry here."""

from typing import Any

from fewshot.backbones.settings import Conv4MAMLSettings, Conv4Settings, R2D2Settings, ResNet12Settings
from fewshot.registry import Part, find_part

BACKBONES: dict[str, Part] = {
    "conv4": Part("fewshot.backbones.conv4:Conv4", Conv4Settings),
    "conv4_maml": Part("fewshot.backbones.conv4_maml:Conv4MAML", Conv4MAMLSettings),
    "r2d2": Part("fewshot.backbones.r2d2:R2D2Net", R2D2Settings),
    "resnet12": Part("fewshot.backbones.resnet12:ResNet12", ResNet12Settings),
    "pixels": Part("fewshot.backbones.pixels:Pixels"),
}


def build_backbone(name: str, *, image_size: int, **settings: Any) -> Any:
    """Return the backbone `name` as a `torch.nn.Module` with an attribute `embedding_size` (d).

    Args:
        name: an entry of `BACKBONES`.
        image_size: side of the square images, pixels.
        settings: fields of the entry's settings type; missing ones take their defaults.

    Raises:
        ParamsError: if the name is unknown.
        pydantic.ValidationError: if a setting is unknown or out of range.
    """
    part = find_part("backbone", name, BACKBONES)
    return part.load()(image_size=image_size, **part.typed(settings).model_dump())
