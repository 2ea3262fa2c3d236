"""Stopping on request: SIGINT, SIGTERM and SIGHUP end every job in good order, with one exit status.

A training run ends after its current step, with its state saved; any other job ends at once and removes its scratch
files. A signal that the process ignored from its start (`nohup`, a script's background job) stays ignored.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_STOPPED = 130
STDERR = 2  # file descriptor


class Interrupted(KeyboardInterrupt):
    """A signal asked the job to stop; if it is a training run, its state has been saved."""


def raise_on_signals() -> None:
    """Make the first SIGINT, SIGTERM or SIGHUP raise `Interrupted`; later ones are ignored."""
    _handle(_interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _handle(signal.SIG_IGN)
    raise Interrupted(_stopped(number))


def _stopped(number: int) -> str:
    return f"{signal.Signals(number).name}: stopped; rerun the same command to continue"


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Make a signal end the process at once, with the status of a stopped job.

    For imports: an exception that is raised within torch's own start, in C++, would abort the process.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(STDERR, f"{_stopped(number)}\n".encode())
        os._exit(EXIT_STOPPED)

    previous = _handle(leave)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals() -> Iterator[Callable[[], str | None]]:
    """Turn SIGINT, SIGTERM and SIGHUP into a request that the loop reads after each step.

    Yields:
        A function that returns the name of the first signal received, or None.
    """
    received: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)

    previous = _handle(note)
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            ending = received and handler is _interrupt
            signal.signal(number, signal.SIG_IGN if ending else handler)


def _handle(handler: "signal._HANDLER") -> dict[signal.Signals, "signal._HANDLER"]:
    """Set the handler of every signal that is not ignored; return the previous ones."""
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}
