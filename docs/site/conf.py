"""The site of the documentation, built by `make docs`: the pages as they are in the repository, and the API.

Sphinx, because it, MyST and Furo are maintained; MkDocs 1 and its theme Material no longer are (November 2026), and
their successor has no stable release yet.
"""

import re
from pathlib import Path
from typing import Any

from fewshot import __version__
from fewshot.report import stats as stats  # imported here, because autodoc's own first import confuses pydantic

ROOT = Path(__file__).parents[2]

project = "fewshot-workflow"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/site/index"
include_patterns = ["*.md", "docs/*.md", "docs/*/*.md"]
myst_heading_anchors = 4  # so that links to headings are those of GitHub

default_role = "code"  # a name in single backquotes
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = project
html_show_copyright = False
templates_path = ["templates"]
html_additional_pages = {"index": "to_readme.html"}

LINK = re.compile(r"\[([^\]\n]*)\]\(([^()\s:#]+)\)")


def setup(app: Any) -> None:
    """Register what is done to each page."""
    app.connect("source-read", without_links_to_folders)


def without_links_to_folders(app: Any, page: str, source: list[str]) -> None:
    """Replace links to folders of the repository, which the site does not have, by their text."""
    folder = (ROOT / page).parent
    source[0] = LINK.sub(lambda link: link[1] if (folder / link[2]).is_dir() else link[0], source[0])
