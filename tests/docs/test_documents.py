"""README, CONTRIBUTING, CHANGELOG and docs: every link resolves, every command exists, every page is listed."""

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from fewshot import __version__
from fewshot.cli.command_line import make_parser
from fewshot.workflow.evidence import COVERAGE_BLOCK, LISTED

ROOT = Path(__file__).parents[2]
TOP_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
DOCUMENTS = [*TOP_PAGES, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(```|~~~).*?^\1$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
COMMAND = re.compile(r"^(?: {4})?(?:\$ )?(fewshot [a-z].*)$|`(fewshot [a-z][^`\n]*)`", re.MULTILINE)


def text_of(document):
    return (ROOT / document).read_text(encoding="utf-8")


def anchors(text):
    """Return the anchors that GitHub derives from the headings of a page."""
    names = []
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        names.append(name if name not in names else f"{name}-{names.count(name)}")
    return names


def broken_links(document):
    """Return the relative links of a document that do not resolve."""
    text = text_of(document)
    broken = []
    for link in LINK.findall(INLINE_CODE.sub("", FENCE.sub("", text))):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (ROOT / document).parent / path if path else ROOT / document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document):
    assert broken_links(document) == []


def usage_error(words):
    """Return the usage error that the command line prints for a command; '' if it accepts the command."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            make_parser().parse_args(words)
    except SystemExit:
        return printed.getvalue()
    return ""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document):
    """The command line accepts each `fewshot ...`; `...` means further arguments."""
    for line, quoted in COMMAND.findall(text_of(document)):
        words = [word for word in shlex.split(line or quoted, comments=True)[1:] if word != "..."]
        is_name_only = quoted and len(words) == 1
        assert usage_error([*words, "--help"] if is_name_only else words) == "", f"{document}: {line or quoted}"


def test_commands_are_found_on_lines_of_their_own_and_in_sentences():
    text = "Type `fewshot list`, or:\n\n    $ fewshot train x\n    text\n\n```sh\nfewshot report\n```\n"
    assert [line or quoted for line, quoted in COMMAND.findall(text)] == [
        "fewshot list", "fewshot train x", "fewshot report",
    ]  # fmt: skip
    assert COMMAND.findall(text_of("docs/workflow.md"))


def test_unknown_command_is_a_usage_error():
    assert "invalid choice" in usage_error(["trains", "x"])
    assert "invalid choice" in usage_error(["trains", "--help"])
    assert "unrecognized" in usage_error(["list", "--fast"])


@pytest.mark.parametrize("folder", ["docs", "docs/benchmarks"])
def test_index_lists_every_page(folder):
    listed = {link.partition("#")[0] for link in LINK.findall(text_of(f"{folder}/README.md"))}
    pages = {path.name for path in (ROOT / folder).glob("*.md")} - {"README.md"}
    assert pages - listed == set(), f"list these pages in {folder}/README.md"


def test_index_lists_the_pages_at_the_top():
    listed = LINK.findall(text_of("docs/README.md"))
    assert {f"../{page}" for page in TOP_PAGES} <= set(listed)


def test_anchors_are_those_of_github():
    assert anchors("# A head, or `two`\n## A [link](x.md)\n```\n# no heading\n```\n# Twice\n# Twice\n") == [
        "a-head-or-two", "a-link", "twice", "twice-1",
    ]  # fmt: skip


def test_the_table_of_suites_has_every_suite_of_the_repository():
    """Own suites, which git does not track, are not in it."""
    tracked = ["git", "ls-files", "params.yaml", "experiments/*.yaml"]
    done = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        pytest.skip("not a clone")
    suites = {suite for file in done.stdout.split() for suite in yaml.safe_load(text_of(file)).get("suites", {})}
    assert suites == set(LISTED.findall(COVERAGE_BLOCK.search(text_of("README.md"))[2]))


@pytest.fixture
def citation():
    return yaml.safe_load(text_of("CITATION.cff"))


def test_citation_has_what_the_format_requires(citation):
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "type", "license"} <= citation.keys()
    assert citation["version"] == __version__
    for work in (citation, *citation["references"]):
        assert work["title"]
        for author in work["authors"]:
            assert "name" in author or {"family-names", "given-names"} <= author.keys()


def test_citation_names_both_papers(citation):
    papers = {(paper["type"], paper["title"], paper["year"]) for paper in citation["references"]}
    assert papers == {
        ("conference-paper", "Meta-Learning with Differentiable Convex Optimization", 2019),
        ("conference-paper", "Contextual Gradient Scaling for Few-Shot Learning", 2022),
    }
