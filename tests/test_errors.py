"""Messages show names from files on one line, escaped and shortened, whatever they contain."""

import pytest

from fewshot.errors import (
    DataError,
    FewshotError,
    ParamsError,
    Problems,
    locate_errors,
    quoted,
    quoted_key,
    quoted_names,
)

HOSTILE = {
    "escape sequence": "\x1b[31mred",
    "carriage return": "fine\rerror",
    "newline": "a\nb",
    "backwards": "gpj.\u202eexe",
    "isolate": "\u2066a",
    "zero width": "a\u200bb",
    "line separator": "a\u2028b",
    "surrogate": "a\ud800",
    "null": "a\0b",
    "huge": "x" * 10**6,
}


def is_harmless(text: str) -> bool:
    return text.isprintable() and len(text) < 2500


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("function", [quoted, quoted_key, lambda text: quoted_names([text] * 20)])
def test_quoted_names_are_one_short_printable_line(name, function):
    assert is_harmless(function(HOSTILE[name]))


@pytest.mark.parametrize("kind", [FewshotError, ParamsError, DataError])
@pytest.mark.parametrize("name", HOSTILE)
def test_an_error_that_forgot_to_quote_is_still_harmless(name, kind):
    lines = str(kind(f"file {HOSTILE[name]}: damaged\nfetch it again")).split("\n")

    assert all(is_harmless(line) for line in lines)
    assert lines[0].startswith("file ")
    assert lines[-1] == "fetch it again"


def test_a_line_that_is_shortened_keeps_its_advice():
    text = str(DataError(f"file {'x' * 10**6}: damaged; fetch it again"))

    assert text.startswith("file xxx")
    assert text.endswith("x: damaged; fetch it again")


def test_ordinary_text_is_shown_as_it_is():
    text = "données/日本/ü.png: n'est pas lisible; 50 % ± 1"

    assert (str(DataError(text)), quoted_key(text)) == (text, text)


def test_names_are_listed_up_to_a_number():
    assert quoted_names("abcd", 2) == "a, b and 2 more"
    assert quoted_names([]) == "nothing"


def test_problems_collect_each_line_once_in_order():
    problems = Problems()
    for text in ("b", "a\nb", "c"):
        with problems.collected(), locate_errors("file"):
            raise ParamsError(text)

    with pytest.raises(ParamsError) as all_of_them:
        problems.raise_all()
    with pytest.raises(ParamsError) as first:
        problems.raise_all(1)

    assert str(all_of_them.value).splitlines() == ["file: b", "file: a", "file: c"]
    assert str(first.value).splitlines() == ["file: b", "and 2 more; 'fewshot check' lists all"]


def test_problems_raise_nothing_if_there_are_none_and_let_other_errors_through():
    problems = Problems()
    problems.raise_all()

    with pytest.raises(DataError), problems.collected():
        raise DataError("gone")
