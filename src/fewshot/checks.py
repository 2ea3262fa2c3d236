"""Checks of values that may be on an accelerator, where reading one makes the host wait for the device.

By default a check is read at once. Within `deferred`, checks are collected and assumed to hold, so that the host can
queue a whole outer step; the caller reads them together and, if one failed, repeats the step with immediate checks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_collected: ContextVar[list[Tensor] | None] = ContextVar("collected", default=None)


def holds(condition: Tensor) -> bool:
    """Return whether every element of a boolean tensor is true; within `deferred`, note the condition and return True.

    >>> import torch
    >>> holds(torch.tensor([1.0, 2.0]).isfinite())
    True
    """
    collected = _collected.get()
    if collected is None:
        return bool(condition.all())
    collected.append(condition.detach().all())
    return True


@contextmanager
def deferred() -> Iterator[list[Tensor]]:
    """Collect the conditions checked in a `with` block instead of reading them.

    Yields:
        The conditions noted so far, scalar boolean tensors; the block's results are valid if all of them are true.

    >>> import torch
    >>> with deferred() as conditions:
    ...     assumed = holds(torch.tensor([1.0, float("nan")]).isfinite())
    >>> assumed, bool(torch.stack(conditions).all())
    (True, False)
    """
    conditions: list[Tensor] = []
    token = _collected.set(conditions)
    try:
        yield conditions
    finally:
        _collected.reset(token)


def are_deferred() -> bool:
    """Return whether checks are collected at present."""
    return _collected.get() is not None
