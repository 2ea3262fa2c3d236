"""What the tests of the documents share: the documents, their code blocks, and a copy of the project to run them in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def code_blocks():
    """Return a function that gives the (language, text) of each code block of a document."""

    def of(document: str) -> list[tuple[str, str]]:
        return BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))

    return of


@pytest.fixture(scope="session")
def project_copy(tmp_path_factory):
    """Return a function that copies package and parameters, with numba's compiled files, into a fresh folder."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("copy")
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info"))
        shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
        return folder

    return make


@pytest.fixture(scope="session")
def run_python():
    """Return a function that runs Python code with the package of a project copy; gives what it printed."""

    def run(folder: Path, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
