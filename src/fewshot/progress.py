"""Progress of a job: a bar on a terminal, plain lines in a log file, and a file that other processes read."""

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

Report = Callable[[str, int, int], None]
"""(what is counted, how many are done, how many there are) -> None, such as `report`."""

WRITE_S = 1.0
SILENT_S = 60.0  # a job that has not written for so long was killed, or its machine is lost


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


@dataclass(frozen=True)
class Progress:
    """How far a job is, as its file says.

    Attributes:
        what: what is counted, such as "step"; empty before anything was counted.
        done: how many of them are done.
        total: how many there are.
        since: time of the first report that counted these, in seconds since 1970.
        first: how many were done then.
        loss: of the last training step.
        validation: accuracy on the validation episodes after the last epoch, 0..1.
        began: time when the job began, in seconds since 1970.
        written: time when the file was written, in seconds since 1970.
    """

    what: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0
    first: int = 0
    loss: float | None = None
    validation: float | None = None
    began: float = 0.0
    written: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all are done, at the mean speed so far; None before there is one."""
        if self.done <= self.first:
            return None
        return (self.written - self.since) / (self.done - self.first) * (self.total - self.done)

    @property
    def is_silent(self) -> bool:
        """Whether the job has stopped writing."""
        return time.time() - self.written > SILENT_S


class _Reported:
    """What this process reports, and where."""

    file: Path | None = None
    progress = Progress()


@contextmanager
def report_file_lent() -> Iterator[Path | None]:
    """Leave the file that this process reports in to another one within the block; yield it, None if there is none."""
    file, _Reported.file = _Reported.file, None
    try:
        yield file
    finally:
        _Reported.file = file


@contextmanager
def reported_in(file: Path | None) -> Iterator[None]:
    """Write what is reported within the block to a file, every second, so that it also shows that the job is alive.

    The file is removed at the end. A file that cannot be written does not end the job.
    """
    _Reported.file, _Reported.progress = file, Progress(began=time.time())
    ended = threading.Event()
    writer = threading.Thread(target=_write_until, args=(ended, file), daemon=True) if file else None
    try:
        if writer:
            writer.start()
        yield
    finally:
        _Reported.file = None
        ended.set()
        if writer and file:
            writer.join()
            with suppress(OSError):
                file.unlink()


def report(what: str, done: int, total: int, *, loss: float | None = None, validation: float | None = None) -> None:
    """Say how far this job is; costs a microsecond.

    Args:
        what: what is counted, such as "step".
        done: how many of them are done.
        total: how many there are.
        loss: of the last training step; None leaves the one reported before.
        validation: accuracy on the validation episodes, 0..1; None leaves the one reported before.
    """
    if _Reported.file is None:
        return
    before = _Reported.progress
    counted = before
    if what != before.what or done < before.done:
        counted = replace(before, what=what, since=time.time(), first=done)
    _Reported.progress = replace(
        counted,
        done=done,
        total=total,
        loss=before.loss if loss is None else loss,
        validation=before.validation if validation is None else validation,
    )


def unreported(what: str, done: int, total: int) -> None:
    """Say nothing: for work that is only a part of what is reported."""


def read_progress(file: Path) -> Progress | None:
    """Return how far a job is; None if it is not running, or was stopped without a chance to say so."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Progress)}
        progress = Progress(**{name: value for name, value in values.items() if name in known})
        return None if progress.is_silent else progress
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _write_until(ended: threading.Event, file: Path) -> None:
    """Write to a file every second, unless it is lent, until the job has ended."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        if _Reported.file == file:
            _write(file)
        if ended.wait(WRITE_S):
            return


def _write(file: Path) -> None:
    scratch = file.with_name(f".{file.name}.partial")  # without a process id: killed jobs leave at most one
    with suppress(OSError):
        scratch.write_text(json.dumps(asdict(replace(_Reported.progress, written=time.time()))), encoding="utf-8")
        scratch.replace(file)


def duration(seconds: float) -> str:
    """Return a duration in readable form: '40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
