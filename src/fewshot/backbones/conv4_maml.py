"""Conv4 of the gradient-based learners: MAML (Finn et al., ICML 2017), MAML++, ALFA and CxGrad (WACV 2022).

Details the papers leave open, and where each choice comes from:
  * The activation is a leaky ReLU with slope 0.01 in the released code of MAML++, ALFA and CxGrad; the papers say ReLU.
  * Batch norm follows each convolution and, in that code, always uses the statistics of the current batch, even at test
    time (called transductive by Nichol et al. 2018); here the inner loop selects them through `statistics`.
  * CxGrad has no convolution bias; MAML++ and ALFA have one, which batch norm cancels.
  * Parameters are ordered as in that code: convolution weight, [bias], batch-norm bias, batch-norm weight.

Shapes: N images, C x H x W, F filters, K inner steps, d features.
"""

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.base import Backbone
from fewshot.backbones.pooled_stage import Options, pooled_stage
from fewshot.backbones.settings import CONV4_MAML_STAGES, Conv4MAMLSettings
from fewshot.backbones.side_by_side import is_vectorized, side_by_side
from fewshot.backbones.twice_differentiable import batch_norm, convolve
from fewshot.settings import parse_as

Statistics = Literal["running", "batch", "image"] | int

BATCH_NORM_EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Batch norm with statistics chosen by the caller, and optionally a weight and bias for each inner step.

    Args:
        channels: C.
        n_steps: K sets of weight and bias, selected by `inner_step` (MAML++); None for one set.
        running_statistics: keep running means and variances, as in ordinary backbones.
    """

    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(self, channels: int, n_steps: int | None, running_statistics: bool) -> None:
        super().__init__()
        shape = (channels,) if n_steps is None else (n_steps, channels)
        self.bias = nn.Parameter(torch.zeros(shape))
        self.weight = nn.Parameter(torch.ones(shape))
        self.register_buffer("running_mean", torch.zeros(channels) if running_statistics else None)
        self.register_buffer("running_var", torch.ones(channels) if running_statistics else None)

    def forward(self, maps: Tensor, statistics: Statistics = "running", inner_step: int = 0) -> Tensor:
        """Normalise maps (N, C, H, W).

        Args:
            maps: feature maps.
            statistics: mean and variance to use; "running": the batch's in training, running ones in evaluation;
                "batch": those of all N maps; "image": of each map alone; an integer n: of the first n maps.
            inner_step: which weight and bias to use, if there are several.
        """
        return self.normalize(maps, *self.of_step(inner_step), statistics)

    def normalize(self, maps: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics) -> Tensor:
        """Normalise maps (N, C, H, W) with a weight and bias, (C,) each."""
        if statistics == "image":
            return F.instance_norm(maps, weight=weight, bias=bias, eps=BATCH_NORM_EPSILON)
        if isinstance(statistics, int):
            variance, mean = torch.var_mean(maps[:statistics], dim=(0, 2, 3), correction=0)
            return _normalize(maps, mean, variance, weight, bias)
        if statistics == "batch":
            return F.batch_norm(maps, None, None, weight, bias, training=True, eps=BATCH_NORM_EPSILON)
        return F.batch_norm(
            maps, self.running_mean, self.running_var, weight, bias, training=self.training, eps=BATCH_NORM_EPSILON
        )

    def of_step(self, inner_step: int) -> tuple[Tensor, Tensor]:
        """Return the weight and bias of an inner step, (C,) each."""
        weight, bias = (p[inner_step] if p.ndim == 2 else p for p in (self.weight, self.bias))
        return weight, bias


def _normalize(maps: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalise maps (N, C, H, W) with means and variances (C,); differentiable in all arguments."""
    scale = weight * (variance + BATCH_NORM_EPSILON).rsqrt()
    return maps * scale[:, None, None] + (bias - mean * scale)[:, None, None]


def is_on_cpu(tensor: Tensor) -> bool:
    """Return whether a tensor, of one task or vectorised over tasks, is on the CPU."""
    return tensor.device.type == "cpu"


def is_one_task_on_cpu(maps: Tensor) -> bool:
    """Return whether maps of one task are on the CPU, or stand for such (`meta`)."""
    return (is_on_cpu(maps) or maps.device.type == "meta") and not is_vectorized(maps)


class Stage(nn.Module):
    """3x3 convolution, batch norm, leaky ReLU and, unless the convolution is strided, a 2x2 max-pool.

    Pooling precedes the leaky ReLU: the same values and gradients from a quarter of the pixels. With batch statistics
    on the CPU, the stage is one function, `pooled_stage`. In other modes, on accelerators and for many tasks at once,
    the operations are those of `twice_differentiable`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, leaky_slope: float, pooling: str, bias: bool, norm: BatchNorm
    ) -> None:
        super().__init__()
        stride = 2 if pooling == "stride" else 1
        self.convolution = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)
        nn.init.xavier_uniform_(self.convolution.weight)
        if self.convolution.bias is not None:
            nn.init.zeros_(self.convolution.bias)
        self.norm = norm
        self.leaky_slope = leaky_slope
        self.max_pool = pooling == "max"

    def forward(
        self, maps: Tensor, statistics: Statistics, inner_step: int, precision: torch.dtype | None = None
    ) -> Tensor:
        """Return maps of half the side of maps (N, C, H, W); see `Conv4MAML.forward` for the other arguments."""
        own = [parameter for parameter in (self.convolution.weight, self.convolution.bias) if parameter is not None]
        norm = self.norm.of_step(inner_step)
        if self.max_pool and statistics == "batch" and is_on_cpu(maps):
            return side_by_side(partial(self.compute_on_cpu, precision=precision), maps, *norm, *own)
        if precision is None and is_one_task_on_cpu(maps):
            return self.activate(self.norm(self.convolution(maps), statistics, inner_step))
        return side_by_side(partial(self.compute, statistics=statistics, precision=precision), maps, *norm, *own)

    def activate(self, maps: Tensor) -> Tensor:
        """Return the leaky ReLU of the pooled maps."""
        return F.leaky_relu(F.max_pool2d(maps, 2) if self.max_pool else maps, self.leaky_slope)

    def compute(
        self,
        n_tasks: int,
        maps: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        statistics: Statistics,
        precision: torch.dtype | None,
    ) -> Tensor:
        """Return the maps of T tasks, (N, T * F, h, w), from maps (N, T * C, H, W); see `side_by_side`."""
        low, stride = precision or maps.dtype, self.convolution.stride[0]
        maps = convolve(maps.contiguous().to(low), weight.to(low), stride, groups=n_tasks).to(maps.dtype)
        maps = maps if bias is None else maps + bias[:, None, None]
        if statistics == "batch":
            return self.activate(batch_norm(maps, norm_weight, norm_bias, BATCH_NORM_EPSILON))
        return self.activate(self.norm.normalize(maps, norm_weight, norm_bias, statistics))

    def compute_on_cpu(
        self,
        n_tasks: int,
        maps: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        precision: torch.dtype | None,
    ) -> Tensor:
        """Return what `compute` does, with the statistics of the batch."""
        options = Options(n_tasks, self.leaky_slope, BATCH_NORM_EPSILON, precision)
        return pooled_stage(maps, weight, bias, norm_weight, norm_bias, options)


class Conv4MAML(Backbone):
    """Four identical stages; the embedding is the flattened last map, or its mean over pixels with pooling "stride".

    Args:
        image_size: side of the square images, pixels; at least 16.
        filters: channels of every stage; 32 in MAML, 48 in MAML++ and CxGrad for miniImageNet.
        leaky_slope: slope of the activation below zero; 0 is a ReLU.
        pooling: "max" (2x2 max-pool) or "stride" (stride-2 convolutions and a global average pool).
        bias: whether the convolutions have a bias.
        running_statistics: keep running batch-norm statistics; the inner loop does not use them.
        batch_norm_steps: K sets of batch-norm weights and biases, one per inner step (MAML++); None for a single set.
    """

    def __init__(
        self,
        image_size: int,
        filters: int = 48,
        leaky_slope: float = 0.01,
        pooling: Literal["max", "stride"] = "max",
        bias: bool = False,
        running_statistics: bool = True,
        batch_norm_steps: int | None = None,
    ) -> None:
        super().__init__(image_size, smallest=16)
        settings = {"filters": filters, "leaky_slope": leaky_slope, "pooling": pooling, "bias": bias}
        checked = parse_as(Conv4MAMLSettings, settings, where="")
        self.stages = nn.ModuleList(
            Stage(
                3 if i == 0 else filters,
                filters,
                leaky_slope,
                pooling,
                bias,
                BatchNorm(filters, batch_norm_steps, running_statistics),
            )
            for i in range(CONV4_MAML_STAGES)
        )
        self.pools_globally = pooling == "stride"
        self.embedding_size = filters if self.pools_globally else filters * (image_size // 16) ** 2
        self.largest_map = filters * image_size**2  # values
        self.last_map_side = checked.last_map_side(image_size)
        self.bias, self.batch_norm_steps = bias, batch_norm_steps

    def forward(
        self,
        images: Tensor,
        statistics: Statistics = "running",
        inner_step: int = 0,
        precision: torch.dtype | None = None,
    ) -> Tensor:
        """Return embeddings (N, d) of images (N, 3, H, W).

        Args:
            images: of the backbone's size.
            statistics: see `BatchNorm.forward`.
            inner_step: see `BatchNorm.forward`.
            precision: in which convolutions multiply; None: that of the images, as in all else.
        """
        self.check(images)
        maps = images.contiguous(memory_format=torch.channels_last) if is_one_task_on_cpu(images) else images
        for stage in self.stages:
            maps = stage(maps, statistics, inner_step, precision)
        return maps.mean((2, 3)) if self.pools_globally else maps.reshape(len(maps), -1)
