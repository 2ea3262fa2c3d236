"""DropBlock: dropout of square regions of a feature map (Ghiasi et al., NeurIPS 2018), with MetaOptNet's schedule.

Departures from the MetaOptNet release:
  * The release counts forward calls in the module. On several GPUs only the replicas count, and the count is lost; on
    one GPU, evaluation is counted too; resuming resets it. Here the count is computed from the global outer step.
  * The release leaves holes in the squares in about 20 % of calls for b = 5 and half of them for b = 2; `as_released`
    reproduces this.

Shapes: N images, C channels, f side of the map, b side of a dropped square, g = f - b + 1 positions of a square.
"""

from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.errors import ParamsError

DropBlockMode = Literal["ramp", "off", "as_released"]
FORWARDS_PER_STEP = 2  # support and query
Share = TypeVar("Share", float, Tensor)


class DropBlock(nn.Module):
    """Drop squares of a map in training, at a rate that grows linearly over the first outer steps and then is constant.

    The n-th forward call of a training run (from 1) keeps the fraction
    ``max(1 - rate * n / (2 * ramp_steps), 1 - rate)``. In outer step t (from 0), the calls have n = 2 t + 1 (support)
    and n = 2 t + 2 (query); if both are embedded in one call, there is only the first. With gradient accumulation, each
    chunk restarts at 2 t + 1.

    On an accelerator the rate is computed on the device, so that one recorded step (a CUDA graph) serves all steps.

    Args:
        map_size: f.
        block_size: b, at most f.
        rate: final fraction of the map to drop.
        ramp_steps: outer steps until the final rate.
        mode: "ramp": whole squares; "as_released": with the incomplete squares of the release; "off": drop nothing.
    """

    def __init__(self, map_size: int, block_size: int, rate: float, ramp_steps: int, mode: DropBlockMode) -> None:
        super().__init__()
        if block_size > map_size:
            raise ParamsError(
                f"dropblock_size {block_size} is larger than the map it acts on ({map_size} x {map_size} after "
                f"pooling); lower dropblock_size or raise image_size"
            )
        self.map_size, self.block_size, self.rate, self.ramp_steps, self.mode = (
            map_size,
            block_size,
            rate,
            ramp_steps,
            mode,
        )
        self._step = self._calls = 0
        self._forwards: Tensor
        self.register_buffer("_forwards", torch.zeros(()), persistent=False)  # calls before this step

    def set_step(self, step: int) -> None:
        """Number the next forward calls according to the global outer step `step`."""
        self._calls = 0
        if step != self._step:
            self._step = step
            self._forwards.fill_(FORWARDS_PER_STEP * step)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (N, C, f, f) with squares set to zero and the rest scaled by 1 / (fraction kept)."""
        if not self.training or self.mode == "off" or self.rate == 0:
            return x
        self._calls += 1
        places = self.map_size - self.block_size + 1
        seeds = torch.empty(*x.shape[:2], places, places, device=x.device).to(memory_format=torch.channels_last)
        if x.device.type == "cpu":
            keep = keep_share(FORWARDS_PER_STEP * self._step + self._calls, self.rate, self.ramp_steps)
            seeds.bernoulli_(seed_probability(keep, self.block_size, self.map_size))
        else:
            keep_on_device = keep_share_on_device(self._forwards + self._calls, self.rate, self.ramp_steps)
            seeds = seeds.uniform_().lt(seed_probability(keep_on_device, self.block_size, self.map_size)).to(seeds)
        dilate = released_squares if self.mode == "as_released" else full_squares
        kept = 1 - dilate(seeds, self.block_size)
        return x * (kept / kept.mean().clamp_min(1 / kept.numel())).to(x.dtype)


def keep_share(forwards: int, rate: float, ramp_steps: int) -> float:
    """Return the fraction of a map to keep in the `forwards`-th forward call of a training run, counted from 1."""
    return max(1 - rate * forwards / (FORWARDS_PER_STEP * ramp_steps), 1 - rate)


def keep_share_on_device(forwards: Tensor, rate: float, ramp_steps: int) -> Tensor:
    """Return `keep_share` for a number of calls that is on a device, scalar."""
    return (1 - forwards * (rate / (FORWARDS_PER_STEP * ramp_steps))).clamp_min(1 - rate)


def seed_probability(keep: Share, block_size: int, map_size: int) -> Share:
    """Return gamma, the probability that a square starts at a position, such that about 1 - keep of the map is dropped.

    Source: Ghiasi et al. 2018, equation 1.
    """
    return (1 - keep) / block_size**2 * map_size**2 / (map_size - block_size + 1) ** 2


def full_squares(seeds: Tensor, block_size: int) -> Tensor:
    """Return 1 where a square covers the map, else 0, (N, C, f, f).

    Args:
        seeds: (N, C, g, g), 1 where a square has its top left corner.
        block_size: b.
    """
    return F.max_pool2d(F.pad(seeds, (block_size - 1,) * 4), block_size, stride=1)


def released_squares(seeds: Tensor, block_size: int) -> Tensor:
    """Return the squares as the MetaOptNet release computes them; arguments as `full_squares`.

    The release pairs the list of n seeds with the list of b * b offsets element by element, tiling both to length
    n * b * b. Seed k is therefore paired only with the offsets congruent to k modulo gcd(n, b * b). The seeds
    themselves stay in a map padded by (b - 1) // 2 at the top and left, so one more cell of each square is dropped.
    """
    places, centre = seeds.shape[-1], (block_size - 1) // 2
    flat = seeds.reshape(-1).long()
    number = (flat.cumsum(0) - 1).reshape(seeds.shape)
    stride = torch.gcd(flat.sum(), torch.full_like(flat[:1], block_size**2)[0])
    dropped = seeds.new_zeros(*seeds.shape[:2], places + block_size - 1, places + block_size - 1)
    for offset in range(block_size**2):
        row, column = divmod(offset, block_size)
        paired = (number - offset) % stride == 0
        if (row, column) == (centre, centre):
            paired = torch.ones_like(paired)
        window = dropped[:, :, row : row + places, column : column + places]
        window.copy_(torch.maximum(window, seeds * paired))
    return dropped
