"""A mistake in params.yaml stops `fewshot`, `snakemake` and `dvc repro` with the same message before any job starts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot.errors import ParamsError
from fewshot.workflow.plan import load_plan

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")
COMMANDS = (["fewshot", "list"], ["snakemake", "--dry-run"], ["dvc", "repro"])

# Text of the shipped file, and the mistake that replaces it.
MISTAKES = {
    "unknown key": ("\n    n_shot: 5", "\n    n_shto: 5"),
    "wrong type": ("\n    n_shot: 5", "\n    n_shot: five"),
    "out of range": ("learning_rate: 1.0e-3", "learning_rate: -1.0e-3"),
    "null": ("learning_rate: 1.0e-3", "learning_rate:"),
    "not a choice": ("optimizer: adam", "optimizer: adma"),
    "unknown learner": ("learner: [prototype, ", "learner: [prototyp, "),
    "unknown recipe": ("recipe: quick}", "recipe: quik}"),
    "unknown data set": ("dataset: glyphs", "dataset: glyph"),
    "duplicate experiment": ("recipe: quick}", "recipe: quick, seed: [1, 1]}"),
    "cycle of bases": ("\n    n_shot: 5", "\n    base: untrained\n    n_shot: 5"),
    "more ways than classes": ("recipe: quick}", "recipe: quick, n_way: 99}"),
    "more shots than images": ("recipe: quick}", "recipe: quick, n_shot: 99}"),
    "no is text": ("\n    n_shot: 5", "\n    nesterov: no\n    n_shot: 5"),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a folder like a fresh clone of the project, without results."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Snakefile", "dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "experiments").mkdir()
    for name in ("workflow", "profiles", "src/fewshot"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.nbc", "*.nbi"))
    subprocess.run([BIN / "dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    return folder


def start(command, folder):
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "500"}
    program = [str(BIN / command[0]), *command[1:]]
    return subprocess.Popen(
        program, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("name", MISTAKES)
def test_all_commands_print_the_same_message_and_start_nothing(name, checkout, monkeypatch):
    (checkout / "params.yaml").write_text(SHIPPED.replace(*MISTAKES[name], 1), encoding="utf-8")
    monkeypatch.chdir(checkout)
    with pytest.raises(ParamsError) as expected:
        load_plan()

    processes = [start(command, checkout) for command in COMMANDS]
    outputs = [process.communicate(timeout=120)[0] for process in processes]

    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode != 0
        assert str(expected.value) in output
        assert "Traceback" not in output
        assert len(output.splitlines()) < 40
    assert not {"results", "data", "cache", "logs"} & {path.name for path in checkout.iterdir()}


def test_misspelt_experiment_is_refused_by_snakemake_with_the_closest_name(checkout):
    (checkout / "params.yaml").write_text(SHIPPED, encoding="utf-8")

    process = start(["snakemake", "--dry-run", "glyphs-conv4-ridge-quik-s0"], checkout)
    output = process.communicate(timeout=120)[0]

    assert process.returncode != 0
    assert "has no experiment 'glyphs-conv4-ridge-quik-s0'. Did you mean 'glyphs-conv4-ridge-quick-s0'?" in output
    assert "Traceback" not in output


def test_mistake_in_another_suite_stops_snakemake(checkout):
    (checkout / "params.yaml").write_text(SHIPPED, encoding="utf-8")
    wrong = "suites: {mine: [{dataset: glyphs, learner: ridge, recipe: quick, shot: 1}]}\n"
    (checkout / "experiments" / "mine.yaml").write_text(wrong, encoding="utf-8")

    process = start(["snakemake", "--dry-run"], checkout)
    output = process.communicate(timeout=120)[0]

    assert process.returncode != 0
    assert "experiments/mine.yaml: suites.mine[0]: unknown key 'shot'" in output
