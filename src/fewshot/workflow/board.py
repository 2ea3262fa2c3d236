"""Lines at the bottom of a terminal that are updated in place, below what is printed once."""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

UP_AND_CLEAR = "\r\x1b[{}A\x1b[J"


class Board:
    """Prints text once, and on a terminal keeps lines below it that are replaced as they change.

    Elsewhere (a file, a pipe, TERM=dumb) nothing is kept, and no control characters are written.

    Args:
        stream: where to write, such as standard error.

    Attributes:
        in_place: whether lines are kept.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.in_place = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def print(self, text: str) -> None:
        """Print text above the kept lines."""
        with self._lock:
            self._write(f"{text}\n", self._lines)

    def update(self, lines: Sequence[str]) -> None:
        """Replace the kept lines; those that do not fit on the terminal are cut."""
        if self.in_place:
            with self._lock:
                self._write("", self._fitting(lines))

    def _write(self, text: str, lines: list[str]) -> None:
        erase = UP_AND_CLEAR.format(len(self._lines)) if self._lines else ""
        self._lines = lines
        with suppress(OSError, ValueError):  # a closed terminal ends no run
            self.stream.write(erase + text + "".join(f"{line}\n" for line in lines))
            self.stream.flush()

    def _fitting(self, lines: Sequence[str]) -> list[str]:
        columns, rows = self._size()
        shown = [line[: columns - 1] for line in lines[: rows - 2]]
        if len(shown) < len(lines):
            shown[-1] = f"... and {len(lines) - len(shown) + 1} more"
        return shown

    def _size(self) -> tuple[int, int]:
        """Return the columns and rows of the terminal, at least 20 and 4; some say 0."""
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return max(size.columns or 80, 20), max(size.lines or 24, 4)
