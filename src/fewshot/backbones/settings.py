"""Settings of the backbones; free of torch, because the plan reads them."""

from pydantic import Field

from fewshot.registry import Settings


class Conv4Settings(Settings):
    """Settings of `conv4`."""

    filters: int = Field(64, ge=1, le=1024, description="channels of every layer (Snell et al. 2017: 64)")
