"""Settings of the backbones, defined without torch, because the plan reads them."""

from typing import ClassVar, Literal

from pydantic import Field

from fewshot.settings import Settings

Pooling = Literal["flatten", "mean"]


class Conv4Settings(Settings):
    """Settings of `conv4`."""

    filters: int = Field(64, ge=1, le=1024, description="channels of every layer (Snell et al. 2017: 64)")


class R2D2Settings(Settings):
    """Settings of `r2d2`; those in `not_weights` leave the trained tensors as they are."""

    not_weights: ClassVar[tuple[str, ...]] = ("dropout3", "dropout4")

    dropout3: float = Field(0.1, ge=0, lt=1, description="dropout after block 3 (MetaOptNet release: 0.1)")
    dropout4: float = Field(0.3, ge=0, lt=1, description="dropout after block 4 (MetaOptNet release: 0.3)")


class ResNet12Settings(Settings):
    """Settings of `resnet12`; those in `not_weights` leave the trained tensors as they are."""

    has_choice_of_pooling: ClassVar[bool] = True
    not_weights: ClassVar[tuple[str, ...]] = (
        "drop_rate", "dropblock", "dropblock_size", "dropblock_ramp_steps", "init_slope", "pooling",
        "convolutions",
    )  # fmt: skip

    drop_rate: float = Field(
        0.1, ge=0, lt=1, description="dropout after blocks 1 and 2, final DropBlock rate after 3 and 4 (Lee 2019)"
    )
    dropblock: Literal["ramp", "off", "as_released"] = Field(
        "ramp",
        description="ramp: whole squares; off: none, like the release on several GPUs; as_released: squares with holes",
    )
    dropblock_size: int | None = Field(
        None, ge=1, description="side of a square; null: 5, or 2 if the last map is smaller than 5 x 5 (Lee 2019)"
    )
    dropblock_ramp_steps: int = Field(
        20_000, ge=1, description="outer steps until DropBlock's final rate (release: 40000 forward calls, 2 per step)"
    )
    init_slope: float = Field(0.0, ge=0, le=1, description="LeakyReLU slope in the initialisation gain (release: 0)")
    pooling: Pooling = Field(
        "flatten",
        exclude_if=lambda pooling: pooling == "flatten",
        description="the embedding is the last map, flattened (MetaOptNet), or its mean over the pixels (RFS)",
    )
    convolutions: Literal["by_size", "direct"] = Field(
        "by_size",
        exclude_if=lambda convolutions: convolutions == "by_size",
        description="by_size: on a CPU, 3x3 convolutions in the fastest form for their size; direct: always torch's",
    )


CONV4_MAML_STAGES = 4


class Conv4MAMLSettings(Settings):
    """Settings of `conv4_maml`."""

    filters: int = Field(48, ge=1, le=1024, description="channels of every stage (MAML: 32, MAML++ and CxGrad: 48)")
    leaky_slope: float = Field(0.01, ge=0, lt=1, description="slope of the activation below zero; 0 is a ReLU")
    pooling: Literal["max", "stride"] = Field(
        "max", description="max: 2x2 max-pool; stride: stride-2 convolutions and global average pooling"
    )
    bias: bool = Field(False, description="convolutions have a bias (MAML++ and ALFA: true, CxGrad: false)")

    def last_map_side(self, image_size: int) -> int:
        """Return the side of the map that the last batch norm normalises, pixels."""
        side = image_size
        for stage in range(CONV4_MAML_STAGES):
            if self.pooling == "stride":
                side = (side + 1) // 2
            elif stage + 1 < CONV4_MAML_STAGES:
                side //= 2
        return side
