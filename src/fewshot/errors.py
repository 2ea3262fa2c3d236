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
    """Base class of errors whose message is meant for the user."""


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


MAX_QUOTED = 60
MAX_LISTED = 250
OBJECT = re.compile(r" ?<[^<>]* at 0x[0-9a-f]+>")
UNSAFE_ADVICE = re.compile(r"allow_pickle|weights_only|add_safe_globals|unsafe", re.IGNORECASE)
UNSUPPORTED_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def quoted(value: Any) -> str:
    """Return a value as quoted in messages: in YAML notation, shortened."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 3]}..."


def quoted_key(key: str) -> str:
    """Return a key or dotted path as shown in messages: on one line, shortened."""
    text = key if key.isprintable() else repr(key)
    return text if len(text) <= 2 * MAX_QUOTED else f"{text[: 2 * MAX_QUOTED - 3]}..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean X?' for the known word closest to `word`, or ''."""
    match = difflib.get_close_matches(word[:MAX_QUOTED], list(known), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def allowed_values(word: str, known: Iterable[str]) -> str:
    """Return 'allowed: ...' with as many known words as fit, and the one closest to `word`."""
    words = list(known)
    text = ", ".join(words) or "nothing"
    if len(text) > MAX_LISTED:
        text = f"{text[:MAX_LISTED].rpartition(', ')[0]} and more ({len(words)} in total)"
    return f"allowed: {text}.{did_you_mean(word, words)}"


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
    return line[:MAX_LISTED] or type(error).__name__


@contextmanager
def locate_errors(place: object) -> Iterator[None]:
    """Prefix each line of a `ParamsError` with the file or dotted path of the settings it concerns."""
    try:
        yield
    except ParamsError as error:
        raise ParamsError("\n".join(f"{place}: {line}" for line in str(error).splitlines())) from None
