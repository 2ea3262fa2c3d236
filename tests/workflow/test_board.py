"""Lines updated in place on a terminal, and plain lines elsewhere."""

import fcntl
import io
import os
import pty
import select
import struct
import termios

import pytest

from fewshot.workflow.board import Board


class Terminal:
    """A pseudo-terminal, and the rows that a user would see."""

    def __init__(self, rows, columns):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.stream = os.fdopen(slave, "w", encoding="utf-8")

    def written(self):
        """Return what was written, as soon as nothing more arrives."""
        data = b""
        while select.select([self.master], [], [], 0.2)[0]:
            data += os.read(self.master, 1 << 16)
        return data.decode()

    def seen(self):
        """Return the rows, after following the two control sequences that a board uses: up, and clear below."""
        rows = [""]
        for line in self.written().replace("\x1b[J", "\n\x1b[J").split("\n"):
            text = line.replace("\r", "")
            if text.endswith("A") and "\x1b[" in text:
                del rows[-1 - int(text.rpartition("\x1b[")[2][:-1]) :]
                rows.append("")
            elif text.startswith("\x1b[J"):
                rows[-1] = text.removeprefix("\x1b[J")
                rows.append("")
            else:
                rows[-1] = text
                rows.append("")
        return [row for row in rows if row]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    return Terminal(rows=6, columns=40)


def test_lines_are_replaced_in_place_below_what_is_printed(terminal):
    board = Board(terminal.stream)

    board.print("started")
    board.update(["train a  1 %", "train b  1 %"])
    board.update(["train a  2 %", "train b  1 %"])
    board.print("trained b")
    board.update(["train a  3 %"])

    assert terminal.seen() == ["started", "trained b", "train a  3 %"]


def test_nothing_of_the_lines_is_left_at_the_end(terminal):
    board = Board(terminal.stream)

    board.update(["train a  1 %"])
    board.print("trained a")
    board.update([])

    assert terminal.seen() == ["trained a"]


def test_lines_fit_on_the_terminal(terminal):
    board = Board(terminal.stream)

    board.update([f"job {number} " + 60 * "x" for number in range(9)])

    seen = terminal.seen()
    assert [len(line) for line in seen[:3]] == [39, 39, 39]
    assert seen[3] == "... and 6 more"


@pytest.mark.parametrize("dumb", [False, True])
def test_elsewhere_only_what_is_printed(dumb, terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb" if dumb else "xterm")
    stream = terminal.stream if dumb else io.StringIO()
    board = Board(stream)

    board.update(["train a  1 %"])
    board.print("trained a")
    board.update([])

    text = terminal.written() if dumb else stream.getvalue()
    assert text.split() == ["trained", "a"]


def test_a_closed_terminal_ends_no_run(terminal):
    board = Board(terminal.stream)
    os.close(terminal.master)

    board.update(["train a  1 %"])
    board.print("trained a")
