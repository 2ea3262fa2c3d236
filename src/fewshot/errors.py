"""Errors the user can fix, and the phrases shared by their messages.

Each message says what is wrong, where, what is allowed and what to do. The command line prints it without a traceback;
any other exception is a bug.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class FewshotError(Exception):
    """Base class of errors whose message is meant for the user.

    Messages show names from files, so as text, whatever a terminal would not print as it is (control characters, text
    that runs backwards) is escaped, and lines of absurd length are shortened.
    """

    def __str__(self) -> str:
        return "\n".join(_shortened(line) for line in printable(super().__str__()).split("\n"))


class ParamsError(FewshotError, ValueError):
    """A setting in `params.yaml`, on the command line or in a call is invalid."""


class DataError(FewshotError, ValueError):
    """A data file, archive or prepared store is missing, damaged or unexpected."""


class CheckpointError(FewshotError):
    """A checkpoint or weights file is missing, damaged or incompatible."""


class NumericalError(FewshotError, ArithmeticError):
    """A computation produced a non-finite value, or a solver did not reach its tolerance."""


class ResourceError(FewshotError):
    """There is not enough memory or disk space, or no usable device."""


MAX_QUOTED = 60  # characters
MAX_LISTED = 250
MAX_COMPARED = 200
MAX_LINE = 2000
MAX_PROBLEMS = 20
OBJECT = re.compile(r" ?<[^<>]* at 0x[0-9a-f]+>")
UNSAFE_ADVICE = re.compile(r"allow_pickle|weights_only|add_safe_globals|unsafe", re.IGNORECASE)
UNSUPPORTED_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def quoted(value: Any) -> str:
    """Return a value as quoted in messages: in YAML notation, shortened."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 3]}..."


def quoted_key(key: str) -> str:
    """Return a key, name or dotted path as shown in messages: on one line, shortened."""
    text = key if key.isprintable() else repr(key)
    return text if len(text) <= 2 * MAX_QUOTED else f"{text[: 2 * MAX_QUOTED - 3]}..."


def quoted_names(names: Iterable[object], at_most: int = 8) -> str:
    """Return names as shown in messages: 'a, b and 3 more', or 'nothing'."""
    words = [quoted_key(str(name)) for name in names]
    more = f" and {len(words) - at_most} more" if len(words) > at_most else ""
    return ", ".join(words[:at_most]) + more or "nothing"


def printable(text: str) -> str:
    """Return text with the characters that a terminal would not print as they are escaped; line ends are kept."""
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def did_you_mean(word: str, known: Iterable[str], at_least: float = 0.5) -> str:
    """Return ' Did you mean X?' for the known word closest to `word`, or '' if none has this similarity (0..1)."""
    match = difflib.get_close_matches(word[:MAX_COMPARED], list(known), n=1, cutoff=at_least)
    return f" Did you mean {match[0]!r}?" if match else ""


def allowed_values(word: str, known: Iterable[str]) -> str:
    """Return 'allowed: ...' with as many known words as fit, and the one closest to `word`."""
    words = list(known)
    text = ", ".join(words) or "nothing"
    if len(text) > MAX_LISTED:
        text = f"{text[:MAX_LISTED].rpartition(', ')[0]} and more ({len(words)} in total)"
    return f"allowed: {text}.{did_you_mean(word, words)}"


def _shortened(line: str) -> str:
    """Return a line without its middle if it is too long: the start says where, the end what to do."""
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 500]} ... {line[-400:]}"


def reason_of(error: BaseException) -> str:
    """Return a library's message for use within another one: its first line, without what a user should not see.

    Objects shown with their address in memory are left out. A text that advises to load a file unsafely, as torch's and
    numpy's do, is replaced, because the file may be hostile.
    """
    text = str(error).strip()
    if UNSAFE_ADVICE.search(text):
        called = UNSUPPORTED_GLOBAL.search(text)
        return f"it calls {called.group(1)}" if called else "it contains pickled objects, which are not loaded"
    line = OBJECT.sub("", text.partition("\n")[0])
    return quoted_key(line[:MAX_LISTED]) if line else type(error).__name__


@contextmanager
def locate_errors(place: object) -> Iterator[None]:
    """Prefix each line of a `ParamsError` with the file or dotted path of the settings it concerns."""
    try:
        yield
    except ParamsError as error:
        raise ParamsError("\n".join(f"{place}: {line}" for line in str(error).splitlines())) from None


class Problems:
    """Collects the errors of several checks, so that all are reported at once.

    Attributes:
        lines: the lines of their messages, each once, as keys.
    """

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}

    @contextmanager
    def collected(self, kind: type[FewshotError] = ParamsError) -> Iterator[None]:
        """End the block at an error of this kind and keep its message."""
        try:
            yield
        except kind as error:
            self.add(str(error))

    def add(self, message: str) -> None:
        """Keep a message, unless it is already known."""
        self.lines.update(dict.fromkeys(message.splitlines()))

    def raise_all(self, at_most: int | None = None) -> None:
        """Raise one `ParamsError` with the first `at_most` lines, or all; do nothing if there are none."""
        lines = list(self.lines)
        more = len(lines) - len(lines[:at_most])
        if lines:
            rest = [f"and {more} more; 'fewshot check' lists all"] if more else []
            raise ParamsError("\n".join(lines[:at_most] + rest))
