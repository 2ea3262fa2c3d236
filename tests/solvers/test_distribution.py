"""The solvers alone: their README, and the wheel `fewshot-solvers` in a process that cannot import `fewshot`."""

import doctest
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot import solvers

FOLDER = Path(solvers.__path__[0])
ROOT = Path(__file__).parents[2]
WITHOUT_FEWSHOT = 'import sys\nsys.modules["fewshot"] = None  # importing it is an error\n\n'


def test_readme_example():
    text = (FOLDER / "README.md").read_text(encoding="utf-8").replace("fewshot_solvers", solvers.__name__)
    example = doctest.DocTestParser().get_doctest(text, {}, "README.md", None, None)
    assert doctest.DocTestRunner().run(example) == (0, 8)


def test_figures_of_the_readme_are_measured_ones():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    report = (ROOT / "docs/benchmarks/heads.md").read_text(encoding="utf-8").partition("## Whole head")[0]
    rows = [row.split(" | ") for row in report.splitlines() if row.startswith("| (")]
    measured = {(row[0].strip("|( )"), row[2]): row[3:] for row in rows if row[1] == "low rank"}
    shown = [row.strip("| ").split(" | ") for row in readme.splitlines() if row.startswith(("| 8", "| 4"))]
    for size, qpth, numba, torch, qpth_error, error in shown:
        times = [float(measured[size, solver][0]) for solver in ("qpth", "numba", "torch")]
        assert [float(time.removesuffix(" ms")) for time in (qpth, numba, torch)] == times
        errors = [measured[size, solver][2] for solver in ("qpth", "numba", "torch")]
        assert errors == [qpth_error, error, error]
    assert len(shown) == 4


def test_licence_is_that_of_the_project():
    assert (FOLDER / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.fixture
def installed(tmp_path):
    """Build the wheel from a copy of the folder, offline, and return the folder it is installed in."""
    source, target = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(FOLDER, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheels = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run([*pip, *wheels], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("fewshot_solvers-*.whl")
    install = ["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    return target


@pytest.mark.slow
@pytest.mark.long
def test_the_wheel_passes_the_tests_without_the_package_around_it(installed, tmp_path):
    tests = tmp_path / "tests"
    tests.mkdir()
    for path in Path(__file__).parent.glob("*.py"):
        if path.name != Path(__file__).name:
            text = path.read_text(encoding="utf-8").replace("fewshot.solvers", "fewshot_solvers")
            start = WITHOUT_FEWSHOT if path.name == "conftest.py" else ""
            (tests / path.name).write_text(start + text, encoding="utf-8")
    (tests / "test_readme.py").write_text(
        f"import doctest\n\n\ndef test_readme():\n    path = {str(FOLDER / 'README.md')!r}\n"
        "    assert doctest.testfile(path, module_relative=False) == (0, 8)\n",
        encoding="utf-8",
    )
    (tests / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\nmarkers = slow\n", encoding="utf-8")

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "."],
        cwd=tests,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
    assert (installed / "fewshot_solvers" / "__pycache__").exists()
