"""Errors the user can fix, and the phrases their messages share.

Each says what is wrong, where, what is allowed and what to do. The command line prints them without a traceback; any
other exception is a defect of this program.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class FewshotError(Exception):
    """Base of all errors whose text is meant for the user."""


class ParamsError(FewshotError, ValueError):
    """A setting in `params.yaml`, on the command line or in a call is not usable."""


class DataError(FewshotError, ValueError):
    """A data file, archive or prepared store is missing, damaged or not what it should be."""


class CheckpointError(FewshotError):
    """A checkpoint or weights file is missing, damaged or does not fit."""


class NumericalError(FewshotError, ArithmeticError):
    """A computation gave a non-finite value, or a solver did not reach its tolerance."""


class ResourceError(FewshotError):
    """Memory, disk space or a device is lacking."""


MAX_QUOTED = 60
MAX_LISTED = 250


def quoted(value: Any) -> str:
    """Return a value as a message quotes it: as in YAML, and short."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 3]}..."


def quoted_key(key: str) -> str:
    """Return a key or dotted path as a message names it: plain, on one line, short."""
    text = key if key.isprintable() else repr(key)
    return text if len(text) <= 2 * MAX_QUOTED else f"{text[: 2 * MAX_QUOTED - 3]}..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean X?' for the known word closest to `word`, or ''."""
    match = difflib.get_close_matches(word[:MAX_QUOTED], list(known), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def allowed_values(word: str, known: Iterable[str]) -> str:
    """Return 'allowed: ...', the known words (as many as fit in a line), and the one closest to `word`."""
    words = list(known)
    text = ", ".join(words) or "nothing"
    if len(text) > MAX_LISTED:
        text = f"{text[:MAX_LISTED].rpartition(', ')[0]} and others ({len(words)} in all)"
    return f"allowed: {text}.{did_you_mean(word, words)}"


@contextmanager
def locate_errors(place: object) -> Iterator[None]:
    """Prefix each line of a `ParamsError` with the file or the dotted path of the settings it is about."""
    try:
        yield
    except ParamsError as error:
        raise ParamsError("\n".join(f"{place}: {line}" for line in str(error).splitlines())) from None
