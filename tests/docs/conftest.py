"""Shared by the tests of the documents: their code blocks, and copies of the project in which to run them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot.experiments.build import initial_learner
from fewshot.files import write_json
from fewshot.weights.checkpoint import save_weights
from fewshot.workflow.plan import load_plan

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def code_blocks():
    """Return a function that gives the (language, text) of each code block of a document, or of one section of it."""

    def blocks(document: str, section: str = "") -> list[tuple[str, str]]:
        text = (ROOT / document).read_text(encoding="utf-8")
        if section:
            text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
        return BLOCK.findall(text)

    return blocks


@pytest.fixture(scope="session")
def project_copy(tmp_path_factory):
    """Return a function that copies the package and `params.yaml` into a new folder, with numba's compiled files."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("copy")
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info"))
        shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
        shutil.copytree(ROOT / "experiments", folder / "experiments")
        return folder

    return make


@pytest.fixture(scope="session")
def copy_with_weights(project_copy):
    """Return a function that makes a project copy in which an experiment of the default suite has random weights."""

    def make(experiment: str) -> Path:
        folder = project_copy()
        job = load_plan(ROOT / "params.yaml", suite="quickstart").find("train", experiment)
        (folder / job.dir).mkdir(parents=True)
        save_weights(folder / job.outputs["weights"], initial_learner(job.experiment))
        write_json(folder / job.outputs["run"], {"data_hash": "d" * 64})
        return folder

    return make


@pytest.fixture(scope="session")
def run_python():
    """Return a function that runs Python with the package of a project copy and returns its output, or its errors."""

    def run(folder: Path, *arguments: str, status: int = 0) -> str:
        environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    return run
