"""The terms that report.html explains where they occur; their sentences are those of docs/glossary.md."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from markupsafe import Markup, escape

FILE = Path(__file__).with_name("terms.yaml")


@dataclass(frozen=True)
class Term:
    """A term of the glossary.

    Attributes:
        name: as it occurs in the page.
        section: anchor of its section in docs/glossary.md.
        sentence: its meaning.
    """

    name: str
    section: str
    sentence: str

    @property
    def id(self) -> str:
        """Its identifier on the page."""
        return "term-" + re.sub(r"\W+", "-", self.name.replace("±", "interval")).strip("-").lower()


@cache
def terms() -> Mapping[str, Term]:
    """Return name in lower case -> term."""
    listed = [Term(*fields) for fields in yaml.safe_load(FILE.read_text(encoding="utf-8"))]
    return {term.name.lower(): term for term in listed}


@cache
def _pattern() -> re.Pattern[str]:
    names = "|".join(re.escape(name) for name in sorted(terms(), key=len, reverse=True))
    return re.compile(rf"(?<![\w±])({names})(?![\w-])", re.IGNORECASE)


def explained(text: str | Markup) -> Markup:
    """Return a text with a button for the first occurrence of each term; what is markup already stays as it is."""
    seen: set[str] = set()

    def mark(found: re.Match[str]) -> str:
        term = terms()[found[1].lower()]
        if term.name in seen:
            return found[1]
        seen.add(term.name)
        return f'<button type="button" class="term" popovertarget="{term.id}">{found[1]}</button>'

    parts = re.split(r"(<[^>]*>)", str(escape(text)))
    return Markup("".join(part if part.startswith("<") else _pattern().sub(mark, part) for part in parts))
