"""Progress of a job: a bar on a terminal, plain lines in a log file."""

import io
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def say(text: str) -> None:
    """Print one line of progress, with the time of day; a full disk or a closed terminal does not end the job."""
    if sys.stderr is not None:
        with suppress(OSError):
            tqdm.write(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


def accept_any_encoding() -> None:
    """Show "?" for a character that the terminal or locale cannot encode, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def bar(items: Iterable[Item], *, total: int, initial: int = 0, what: str = "") -> Iterator[Item]:
    """Yield the items, with a progress bar if standard error is a terminal."""
    shown = sys.stderr is not None and sys.stderr.isatty()
    yield from tqdm(items, total=total, initial=initial, desc=what, disable=not shown, leave=False)


def duration(seconds: float) -> str:
    """Return a duration in readable form: '40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
