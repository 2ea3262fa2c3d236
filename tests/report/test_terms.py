"""The terms explained on the page, and their sentences in the glossary."""

from pathlib import Path

import pytest
from markupsafe import Markup

from fewshot.report.terms import Term, explained, terms

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


@pytest.mark.parametrize("term", terms().values(), ids=lambda term: term.id)
def test_the_glossary_has_the_same_sentence_under_its_heading(term: Term) -> None:
    section = GLOSSARY.read_text(encoding="utf-8").split(f"\n## {term.section.capitalize()}\n")[1].split("\n## ")[0]
    assert f"| {term.name} | {term.sentence} |" in section.splitlines()


def test_the_first_occurrence_of_a_term_becomes_a_button() -> None:
    text = explained("largest KKT residual; each KKT residual is relative")
    assert str(text) == (
        'largest <button type="button" class="term" popovertarget="term-kkt-residual">KKT residual</button>; '
        "each KKT residual is relative"
    )


def test_the_longest_term_wins_and_parts_of_words_do_not_count() -> None:
    assert str(explained("frozen episodes")).count("<button") == 1
    assert ">frozen episodes</button>" in explained("frozen episodes")
    assert "<button" not in explained("unexpectedly")


def test_text_is_escaped_and_markup_is_kept() -> None:
    assert explained("<b>") == Markup("&lt;b&gt;")
    assert explained(Markup("<b title='gamma'>x</b>")) == Markup("<b title='gamma'>x</b>")
