"""The first table of docs/benchmarks/README.md agrees with the pages."""

import pytest
from benchmarks.headlines import END, HEADLINES, START, Headline, headlines, number, ratios, write_headlines
from benchmarks.measure import SECTIONS


def test_the_table_is_in_step_with_the_pages():
    text = (SECTIONS / "README.md").read_text(encoding="utf-8")
    shown = text.partition(START)[2].partition(END)[0]
    assert shown.strip() == headlines(), "run python -m benchmarks.headlines"


@pytest.mark.parametrize("headline", HEADLINES, ids=lambda headline: headline.what)
def test_each_headline_finds_its_ratios(headline):
    assert all(ratio > 0 for ratio in ratios(headline, SECTIONS))


def test_the_range_of_the_chosen_rows_is_written(tmp_path):
    page = "| loop | ratio |\n| --- | --- |\n| plain | 1 |\n| ours, a | **2.5** |\n| ours, b | 4 [3..5] |\n"
    (tmp_path / "training.md").write_text(page)
    headline = Headline("training.md", "a step", "the original", "ratio", rows=("loop", "ours*"))
    assert ratios(headline, tmp_path) == [2.5, 4.0]


def test_a_page_without_the_column_is_an_error(tmp_path):
    (tmp_path / "training.md").write_text("| loop |\n| --- |\n| ours |\n")
    with pytest.raises(SystemExit, match="has no table with the column"):
        ratios(HEADLINES[0], tmp_path)


def test_a_readme_without_a_place_is_an_error(tmp_path):
    (tmp_path / "README.md").write_text("# Benchmarks\n")
    with pytest.raises(SystemExit, match="has no lines"):
        write_headlines(tmp_path)


@pytest.mark.parametrize(
    ("cell", "part", "value"), [("**38**", 0, 38), ("49.8 [43..59]", 0, 49.8), ("13.3, 1.43", 1, 1.43)]
)
def test_numbers_are_read_as_the_pages_write_them(cell, part, value):
    assert number(cell, part) == value
