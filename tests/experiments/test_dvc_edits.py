"""`dvc exp run -S` changes one value of the shipped params.yaml and leaves every other byte as it was."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from fewshot.experiments.plain_yaml import read_yaml

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "params.yaml"
DVC = Path(sys.executable).parent / "dvc"

# A pipeline that reads the parameters and does nothing else.
PIPELINE = """\
stages:
  read:
    cmd: cp params.yaml read.yaml
    params: [{params.yaml: null}]
    outs: [read.yaml]
"""


@pytest.fixture
def edited(tmp_path):
    """Return a function that applies overrides as `dvc exp run -S` does and returns the lines that changed."""

    def edit(*overrides: str) -> list[tuple[str, str]]:
        path = tmp_path / "params.yaml"
        shutil.copy(SHIPPED, path)
        apply_overrides(path, list(overrides))
        before, after = (file.read_text(encoding="utf-8").split("\n") for file in (SHIPPED, path))
        assert len(before) == len(after)
        return [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]

    return edit


def numbers(values: dict, place: tuple[str, ...] = ()):
    """Yield the dotted path and value of every number in sections."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from numbers(value, (*place, key))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield ".".join((*place, key)), value


def test_only_the_changed_value_differs(edited):
    assert edited("learners.ridge_adam.initial_scale=4.0") == [
        ("  ridge_adam: {base: ridge, initial_scale: 8.0}", "  ridge_adam: {base: ridge, initial_scale: 4.0}")
    ]


def test_file_that_is_only_written_again_stays_the_same(edited):
    assert edited("suite=quickstart") == []


@pytest.mark.slow
@pytest.mark.long
def test_any_number_can_be_changed_alone(edited):
    changed = [(name, value, edited(f"{name}={value + 1}")) for name, value in numbers(read_yaml(SHIPPED))]

    assert len(changed) > 80
    for name, value, lines in changed:
        assert len(lines) == 1, name
        (before, after), key = lines[0], name.rpartition(".")[2]
        assert after.partition(f"{key}: ")[0] == before.partition(f"{key}: ")[0], name
        assert f"{key}: {value + 1}" in after, name


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("suite=cpu_evidence_resnet12", "suite: cpu_evidence_resnet12"),
        ("suites.quickstart.pixels.recipe=quick_maml", "      recipe: quick_maml"),
        ("recipes.quick.schedule.epochs=[1,2,3]", "    schedule: {epochs: [1, 2, 3], multipliers: [0.3, 0.1]}"),
        ("evaluate.shots=[1,5,10]", "evaluate: {n_way: 5, n_query: 15, episodes: 1000, shots: [1, 5, 10]}"),
        (
            "backbones.resnet12_four_gpus.dropblock=as_released",
            "  resnet12_four_gpus: {base: resnet12, dropblock: as_r",
        ),
    ],
)
def test_words_and_lists_can_be_changed_alone(edited, override, line):
    [(_, after)] = edited(override)
    assert after.startswith(line)


@pytest.mark.timeout(120)
def test_dvc_changes_only_the_value(tmp_path):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "DVC_NO_ANALYTICS": "1",
        **{f"GIT_{role}_{key}": "test" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
    }

    def run(*command: str) -> None:
        subprocess.run([str(word) for word in command], cwd=tmp_path, env=environment, check=True, capture_output=True)

    shutil.copy(SHIPPED, tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    run("git", "init", "-q")
    run(DVC, "init", "-q")
    run("git", "add", "-A")
    run("git", "commit", "-q", "-m", "start")

    run(DVC, "exp", "run", "-S", "learners.ridge_adam.initial_scale=4.0", "-S", "recipes.cpu.learning_rate=0.002")

    expected = SHIPPED.read_text(encoding="utf-8").replace(
        "ridge_adam: {base: ridge, initial_scale: 8.0}", "ridge_adam: {base: ridge, initial_scale: 4.0}"
    )
    before, cpu, after = expected.partition("\n  cpu: ")
    assert (tmp_path / "read.yaml").read_text(encoding="utf-8") == (
        before + cpu + after.replace("learning_rate: 1.0e-3", "learning_rate: 0.002", 1)
    )
