"""Stopping on request: SIGINT and SIGTERM end a training run after the current step, with its state saved."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal asked the training to stop; its state has been saved."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], str | None]]:
    """Turn SIGINT and SIGTERM into a request that the loop reads after each step.

    Yields:
        A function that returns the name of the first signal received, or None.
    """
    received: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
