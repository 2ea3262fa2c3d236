"""Snakemake's own tools on the workflow: the linter, the report."""

import re
import zipfile

# Each rule runs in the one environment of requirements.lock, which `make` installs: torch, its CUDA libraries and the
# workflow tools were resolved together; a separate 6 GB environment per rule would have no benefit.
EXPLAINED = {"Specify a conda environment or container for each rule."}


def test_lint(made):
    linted = made.try_run("snakemake --lint")
    assert set(re.findall(r"^    \* (.*):$", linted.text, re.MULTILINE)) == EXPLAINED, linted.text


def test_report(made, tmp_path):
    """`snakemake --report` shows every kind of output with its caption."""
    made.run(f"snakemake --report {tmp_path / 'report.zip'}")
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        page = archive.read("report/report.html").decode()
    captions = [path.read_text(encoding="utf-8").strip() for path in (made.folder / "workflow/report").glob("*.rst")]
    assert len(captions) == 7
    for caption in captions:
        assert caption.split("%")[0].strip(".") in page
