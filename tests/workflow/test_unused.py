"""A changed setting that no experiment of the suite uses is named."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from fewshot.cli import main
from fewshot.experiments.reader import read_files
from fewshot.workflow.plan import load_plan
from fewshot.workflow.unused import unmeasured_gradients, unused_changes

IDENTITY = {f"GIT_{role}_{key}": "test" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}


@pytest.fixture
def values(tiny_params):
    """Return parameters with a suite `other`, and entries that only it uses."""
    values = tiny_params("ridge")
    values["recipes"] |= {"long": {"base": "quick", "epochs": 9}, "longer": {"base": "long", "epochs": 99}}
    values["learners"] = {"soft": {"base": "ridge", "ridge": 3.0}, "ridge": {"ridge": 50.0}}
    values["variants"] = {"by_mean": {"head": "prototype"}}
    block = {"dataset": "glyphs", "learner": "soft", "recipe": "longer", "variants": ["by_mean"]}
    values["suites"]["other"] = [block]
    return values


@pytest.fixture
def commit(project, monkeypatch):
    """Return a function that writes params.yaml and commits it."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)

    def write_and_commit(values) -> None:
        write(values)
        for command in (["init", "-q"], ["add", "params.yaml"], ["commit", "-q", "-m", "state"]):
            subprocess.run(["git", *command], check=True)

    return write_and_commit


def write(values, name="params.yaml") -> None:
    Path(name).write_text(json.dumps(values), encoding="utf-8")


def notes(suite=None) -> list[str]:
    return unused_changes(load_plan(suite=suite), read_files())


@pytest.mark.parametrize(
    ("section", "name", "change"),
    [
        ("learners", "soft", {"ridge": 4.0}),
        ("recipes", "long", {"epochs": 8}),
        ("recipes", "longer", {"epochs": 98}),
        ("variants", "by_mean", {"head": "svm"}),
    ],
)
def test_changed_entry_of_another_suite_is_named_with_the_suite_that_uses_it(values, commit, section, name, change):
    commit(values)
    values[section][name] |= change
    write(values)

    assert notes() == [
        f"no experiment of suite tiny uses {section}.{name}, which has changed since the last commit; other does: "
        "--config suite=other"
    ]
    assert notes("other") == []


def test_entry_that_the_suite_uses_is_not_named(values, commit):
    commit(values)
    values["recipes"]["quick"]["epochs"] += 1
    values["learners"]["ridge"]["ridge"] = 1.0
    values["backbones"]["conv4"]["filters"] = 8
    write(values)
    assert notes() == []


def test_entry_that_nothing_uses_is_named_alone(values, commit):
    commit(values)
    values["learners"]["new"] = {"base": "ridge"}
    write(values)
    assert notes() == ["no experiment of suite tiny uses learners.new, which has changed since the last commit"]


def test_nothing_is_said_without_a_change_or_without_git(values, commit, project):
    write(values)
    assert notes() == []
    commit(values)
    assert notes() == []


def test_list_prints_it(values, commit, capsys):
    commit(values)
    values["learners"]["soft"]["ridge"] = 4.0
    write(values)
    main(["list"])
    assert capsys.readouterr().err.startswith("note: no experiment of suite tiny uses learners.soft, which")


def test_inner_gradients_of_a_learner_without_an_inner_loop_are_named(project, tiny_params, capsys):
    values = tiny_params("ridge")
    values["recipes"]["quick"]["validation"] = {"episodes": 6, "n_shot": 2, "n_query": 3, "inner_gradients": 2}
    block = values["suites"]["tiny"][0]
    values["suites"]["tiny"].append({**block, "learner": "maml", "backbone": "conv4_maml", "n_shot": 1})
    write(values)
    sentence = "recipes.quick: validation.inner_gradients measures nothing in learner ridge"
    assert [note.startswith(sentence) for note in unmeasured_gradients(load_plan())] == [True]
    main(["check"])
    assert f"note: {sentence}, which does not adapt by gradient steps" in capsys.readouterr().err
