"""One training run shared by several processes, each on its own device: how they exchange gradients and statistics.

Every process (rank) holds the whole learner and takes its share of the episodes of each meta-batch. After the backward
pass the gradients are summed, so all ranks take the same outer step and their weights stay bit-identical. The gradients
equal those of a single process that computes the same shares one after the other.

Differences from one process that embeds the whole meta-batch at once:
  * Batch norm normalises each rank's images by their own statistics (as `episodes_per_backward` does).
  * Running statistics are averaged over the ranks after every step, so the order of the ranks does not matter.
  * Each rank draws its own random numbers for dropout; augmentation depends on the episode alone.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fewshot.errors import NumericalError, ResourceError

# How long a rank waits for the others; must be longer than a validation, which only rank 0 computes.
TIMEOUT = timedelta(minutes=30)

CPU = torch.device("cpu")
RUNNING_STATISTICS = ("running_mean", "running_var")


class LostContactError(ResourceError):
    """Another rank did not answer."""


@dataclass(frozen=True)
class ProcessGroup:
    """The ranks of a training run, as seen by one of them; by default a single process, which sends nothing.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Whether this process validates and writes the files."""
        return self.rank == 0

    @property
    def batch_norm_statistics(self) -> str:
        """Which statistics normalise an image in training, as described in run.json."""
        alone = "of the images embedded together"
        return alone if self.size == 1 else f"{alone} on one device; running statistics: mean over {self.size} devices"

    def share(self, meta_batch: int) -> range:
        """Return which episodes of a meta-batch, whose size is a multiple of `size`, this rank computes."""
        own = meta_batch // self.size
        return range(self.rank * own, (self.rank + 1) * own)

    def sum_gradients(self, learner: nn.Module) -> None:
        """Replace each gradient by its sum over the ranks."""
        self._reduce_together([parameter.grad for parameter in learner.parameters() if parameter.grad is not None])

    def average_statistics(self, learner: nn.Module) -> None:
        """Replace the running statistics of batch norm by their mean over the ranks."""
        statistics = [value for name, value in learner.named_buffers() if name.endswith(RUNNING_STATISTICS)]
        self._reduce_together(statistics, divisor=self.size)

    def sum(self, *values: float) -> list[float]:
        """Return each value summed over the ranks."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        return self._reduced(total, dist.ReduceOp.SUM).tolist()

    def agree_to_stop(self, name: str | None) -> str | None:
        """Return the name of a signal that any rank has received, so that all stop after the same step."""
        if self.size == 1:
            return name
        number = torch.tensor(signal.Signals[name] if name else 0, device=self.device)
        highest = int(self._reduced(number, dist.ReduceOp.MAX))
        return signal.Signals(highest).name if highest else None

    def check_agreement(self, learner: nn.Module) -> None:
        """Stop the training if the ranks' weights are not bit-identical.

        Raises:
            NumericalError: naming the tensors that differ.
        """
        if self.size == 1:
            return
        state = learner.state_dict()
        sums = torch.stack([_byte_sum(value) for value in state.values()]).to(self.device)
        low = self._reduced(sums.clone(), dist.ReduceOp.MIN)
        high = self._reduced(sums, dist.ReduceOp.MAX)
        differing = [name for name, same in zip(state, (low == high).tolist(), strict=True) if not same]
        if differing:
            raise NumericalError(
                f"the weights on the {self.size} devices have diverged ({', '.join(differing[:4])}); use "
                "devices of one kind, or set recipe devices: 1"
            )

    def _reduce_together(self, tensors: list[Tensor], divisor: int = 1) -> None:
        """Replace tensors by their sums over the ranks, divided by `divisor`, in one message."""
        if self.size == 1 or not tensors:
            return
        flat = self._reduced(torch.cat([tensor.reshape(-1) for tensor in tensors]), dist.ReduceOp.SUM)
        parts = flat.div_(divisor).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def _reduced(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        """Reduce a tensor over the ranks in place and return it."""
        try:
            dist.all_reduce(tensor, operation)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _lost_contact(self.rank, error) from error
        return tensor


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def joined(
    rank: int, size: int, device: torch.device, rendezvous: Path, timeout: timedelta = TIMEOUT
) -> Iterator[ProcessGroup]:
    """Join the other ranks; at the end of the `with` block all wait for each other.

    If the block fails, the process is expected to end without waiting for ranks that may never answer.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        device: of this process.
        rendezvous: file through which the processes find each other; must be new for every training.
        timeout: how long a rank may keep the others waiting.

    Raises:
        LostContactError: if not all ranks arrive in time.
    """
    try:
        store = dist.FileStore(str(rendezvous), size)  # type: ignore[attr-defined]
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except RuntimeError as error:
        raise _lost_contact(rank, error) from error
    processes = ProcessGroup(rank, size, device)
    yield processes
    processes.sum(0.0)
    dist.destroy_process_group()


def _lost_contact(rank: int, error: Exception) -> LostContactError:
    return LostContactError(
        f"rank {rank} has lost contact with the others ({str(error).splitlines()[0]}); the same command resumes from "
        "the last checkpoint"
    )


def _byte_sum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bytes, int64; exact, so that equal tensors agree on any device."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).sum(dtype=torch.int64)
