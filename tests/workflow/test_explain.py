"""`fewshot explain` names the setting, module or data in which a job differs from its last recorded result."""

import json
import os

import pytest

from fewshot.errors import DataError
from fewshot.experiments.params import Params
from fewshot.settings import parse_as
from fewshot.workflow.explain import changes, explain_experiment, facts, last_recorded
from fewshot.workflow.plan import make_plan
from fewshot.workflow.results import run_job


@pytest.fixture
def plan_of(project, tiny_params):
    """Return a function that plans a suite with one learner on a user file of images."""
    (project / "images.tar").write_bytes(b"pixels")

    def planned(recipe=None, **changes):
        values = tiny_params("ridge", dataset="mine", recipe={"image_size": 32, **(recipe or {})}, **changes)
        values["prepare"] = {"mine": {"base": "cifar_fs", "path": "images.tar"}}
        return make_plan(parse_as(Params, values, where=""), "tiny")

    return planned


NAME = "mine-conv4-ridge-quick-s0"


def record(plan):
    """Record the results of all jobs of a suite."""
    for job in (*plan.train, *plan.evaluate):
        run_job(job, lambda out, _: (out / "made").touch())


def changed(plan, stage="train"):
    """Return the changes of an experiment's job since its last recorded result."""
    job = plan.find(stage, NAME)
    _, before = last_recorded(job)
    return changes(before, job.identity)


def test_changed_test_setting_is_named_with_both_values(plan_of):
    record(plan_of())

    after = plan_of(evaluate={"episodes": 30})

    assert changed(after, "evaluate") == ["setting episodes: 20 -> 30"]
    assert last_recorded(after.train[0]) is None


def test_changed_training_setting_is_named_and_the_evaluation_names_the_training(plan_of):
    before = plan_of()
    record(before)

    after = plan_of(recipe={"learning_rate": 0.25})

    assert changed(after) == ["setting recipe.learning_rate: 0.1 -> 0.25"]
    assert changed(after, "evaluate") == [f"training: {before.train[0].key} -> {after.train[0].key}"]


def test_edited_head_is_named(plan_of, edit):
    record(plan_of())

    edit("heads/ridge.py", "\nADDED = 1\n")

    (line,) = changed(plan_of())
    assert line.startswith("module fewshot.heads.ridge: ")


def test_changed_data_are_named(plan_of, project):
    record(plan_of())

    (project / "images.tar").write_bytes(b"others")

    (line,) = changed(plan_of())
    assert line.startswith("data content of path: ")


def test_added_module_is_named(plan_of, edit):
    record(plan_of())

    edit("heads/ridge.py", "\nfrom fewshot.heads import prototype\n")

    assert [line.split(": ")[0] for line in changed(plan_of())] == [
        "module fewshot.heads.prototype",
        "module fewshot.heads.ridge",
    ]
    assert any(line.startswith("module fewshot.heads.prototype: (none) -> ") for line in changed(plan_of()))


def test_newest_record_is_used_and_the_cache_suffices(plan_of, project):
    for episodes in (40, 30):
        record(plan_of(evaluate={"episodes": episodes}))
    (older,) = plan_of(evaluate={"episodes": 40}).evaluate
    os.utime(older.cache_dir / "result" / "identity.json", (1, 1))
    (project / "results").rename(project / "lost")

    assert changed(plan_of(), "evaluate") == ["setting episodes: 30 -> 20"]


def test_facts_hold_settings_data_and_modules(plan_of):
    job = plan_of().find("train", NAME)

    table = facts(job.identity)

    assert table["setting learner.ridge"] == 50.0
    assert table["setting seed"] == 0
    assert table["module fewshot.heads.ridge"] == job.identity["modules"]["fewshot.heads.ridge"]
    assert table["data base"] == "cifar_fs"
    assert len(table) > 60


def test_text_names_keys_state_and_changes(plan_of):
    record(plan_of())
    plan = plan_of(evaluate={"episodes": 30})

    text = explain_experiment(plan, NAME)

    train, evaluate = plan.train[0], plan.evaluate[0]
    assert f"train {NAME}: key {train.key}" in text
    assert f"evaluate {NAME} on mine: key {evaluate.key}, missing" in text
    assert "  setting episodes: 20 -> 30" in text
    assert "changes of train: no result with another key is recorded" in text


def test_record_is_byte_identical_when_recomputed(plan_of, project):
    record(plan_of())
    first = {path: path.read_bytes() for path in project.rglob("identity.json")}
    for name in ("cache", "results"):
        (project / name).rename(project / f"old-{name}")

    record(plan_of())

    again = {path: path.read_bytes() for path in project.rglob("identity.json") if "old-" not in str(path)}
    assert again == first
    assert all(json.loads(content) for content in again.values())


@pytest.mark.parametrize("damaged", ["{", "[]", '{"settings": 1}'])
def test_a_damaged_record_is_named(plan_of, project, damaged):
    record(plan_of())
    for file in project.rglob("identity.json"):
        file.write_text(damaged, encoding="utf-8")

    with pytest.raises(DataError, match=r"identity.json: not .*; delete its folder"):
        explain_experiment(plan_of(recipe={"learning_rate": 0.25}), NAME)


def test_a_record_with_unknown_sections_is_shown(plan_of):
    assert changes({"settings": {}, "weather": "rain"}, {"settings": {}}) == ["weather: rain -> (none)"]
