"""The LaTeX tables: correct content that compiles."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fewshot.report.contents import Contents, read_contents
from fewshot.report.latex import escape, latex


@pytest.fixture
def contents(maker: Any) -> Contents:
    maker.add("prototype", 0.5)
    maker.add("ridge", 0.8)
    maker.add("svm", 0.63, dataset="mini_imagenet", backbone={"name": "resnet12"}, recipe_name="metaoptnet_50%&more")
    return read_contents(maker.suite())


def test_the_best_is_bold_and_published_numbers_are_shown(contents: Contents) -> None:
    text = latex(contents)
    (ridge,) = (line for line in text.splitlines() if "& ridge" in line)
    assert ridge.count(r"\textbf{") == 2
    assert r"(61.11\,$\nsim$)" in text
    assert r"mini\_imagenet" in text


def test_special_characters_are_escaped() -> None:
    assert escape(r"50% & a_b {x} \y") == r"50\% \& a\_b \{x\} \textbackslash{}y"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (Debian: texlive-latex-base)")
def test_the_tables_compile(contents: Contents, tmp_path: Path) -> None:
    packages = "\\usepackage{booktabs,amssymb}"
    document = f"\\documentclass{{article}}{packages}\\begin{{document}}\n{latex(contents)}\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 1000
