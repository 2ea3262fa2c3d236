"""What was trained once is not trained again: names are labels, and a result is found by its key."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from fewshot.digests import sha256_of
from fewshot.errors import DataError
from fewshot.experiments.params import Params
from fewshot.experiments.reader import read_params
from fewshot.files import write_json
from fewshot.settings import parse_as
from fewshot.workflow import jobs
from fewshot.workflow.plan import make_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan_of(tiny_params):
    """Return a function that plans blocks of a suite; a block names what differs from the tiny experiment."""

    def planned(*blocks, **sections):
        values = tiny_params("ridge", recipe={"epochs": 1, "steps_per_epoch": 2, "optimizer": "adam"})
        (block,) = values["suites"]["tiny"]
        values["suites"]["tiny"] = [{**block, **changes} for changes in blocks or ({},)]
        values["recipes"]["renamed"] = {"base": "quick"}
        values["learners"] = {"same": {"base": "ridge", "ridge": 50.0}}
        return make_plan(parse_as(Params, {**values, **sections}, where=""), "tiny")

    return planned


@pytest.fixture
def steps_of(project, tiny_store, monkeypatch):
    """Return a function that runs all jobs of a plan but the report, and returns the number of optimiser steps."""
    monkeypatch.setattr(jobs, "open_prepared", lambda job: tiny_store)
    monkeypatch.setattr(jobs, "draw_contact_sheet", lambda store, path: None)
    taken = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *args, **kwargs: taken.append(1) or step(*args, **kwargs))

    def steps(plan):
        taken.clear()
        for job in plan.prepare:
            jobs.prepare_job(job)
        for job in plan.train:
            jobs.train_job(job, plan)
        for job in plan.evaluate:
            jobs.evaluate_job(job, plan)
        return len(taken)

    return steps


RELABELLED = {
    "value the recipe has": {"n_shot": 2, "validation.n_shot": 2},
    "value the learner has": {"learner.ridge": 50.0},
    "other ways in the test": {"evaluate.n_way": 5},
    "other shots in the test": {"shots": [2]},
    "other targets": {"targets": ["other"]},
    "learner of another name": {"learner": "same"},
    "recipe of another name": {"recipe": "renamed"},
    "data set of another name": {"dataset": "other"},
}


@pytest.mark.parametrize("change", RELABELLED)
def test_a_training_is_not_repeated_under_another_name(change, plan_of, steps_of):
    assert steps_of(plan_of()) == 2

    assert steps_of(plan_of(RELABELLED[change], prepare={"other": {"base": "glyphs"}})) == 0


def test_another_value_is_trained(plan_of, steps_of):
    steps_of(plan_of())

    assert steps_of(plan_of({"n_shot": 1})) == 2


def test_experiments_of_a_suite_share_their_training(plan_of, steps_of):
    plan = plan_of({"n_shot": [1, 2]}, {"evaluate.n_way": 5}, {"learner": "same"}, {"recipe": "renamed"})

    assert [job.name for job in plan.train] == ["glyphs-conv4-ridge-quick-1shot-s0", "glyphs-conv4-ridge-quick-s0"]
    assert [experiment.name for experiment in plan.experiments] == [
        "glyphs-conv4-ridge-quick-1shot-s0",
        "glyphs-conv4-ridge-quick-2shot-s0",
        "glyphs-conv4-ridge-quick-evaluate_5way-s0",
        "glyphs-conv4-same-quick-s0",
        "glyphs-conv4-ridge-renamed-s0",
    ]
    assert steps_of(plan) == 4
    for job in plan.evaluate:
        assert plan.find("train", job.name) is job.train
        assert job.outputs["json"].exists()


def test_a_training_is_also_found_by_its_own_name_and_key(plan_of):
    plan = plan_of({"evaluate.n_way": 5})

    (job,) = plan.train
    assert plan.find("train", job.name, job.key) is job
    assert plan.experiment(job.name).name == "glyphs-conv4-ridge-quick-evaluate_5way-s0"


def test_trainings_of_one_name_with_different_weights_are_told_apart(plan_of, project):
    """Given weights enter the key, but no name."""
    (project / "weights.safetensors").write_bytes(b"numbers")

    plan = plan_of({}, {"weights": "weights.safetensors", "evaluate.n_way": 5})

    plain, given = plan.train
    assert plain.name == given.name
    assert plan.find("train", plain.name) is plain
    assert plan.find("train", plain.name, given.key) is given
    assert plan.find("train", "glyphs-conv4-ridge-quick-evaluate_5way-s0") is given


def test_results_hold_no_label(plan_of, steps_of):
    """A result may be restored under another name, so that its files cannot name the experiment."""
    plan = plan_of({"learner": "same", "recipe": "renamed"})
    steps_of(plan)

    for job in (*plan.train, *plan.evaluate):
        for file in job.dir.rglob("*.json"):
            text = file.read_text(encoding="utf-8")
            assert "renamed" not in text, file
            assert '"same"' not in text, file


def test_results_are_equal_whichever_label_made_them(plan_of, steps_of, project):
    labels = ({}, {"learner": "same", "n_shot": 2})
    files = []
    for label in labels:
        plan = plan_of(label)
        steps_of(plan)
        (job,) = plan.evaluate
        files.append([job.outputs[name].read_bytes() for name in ("json", "arrays")])
        for folder in ("cache", "results"):
            (project / folder).rename(project / f"{folder}-{len(files)}")

    assert files[0] == files[1]


def test_example_of_the_readme_shares_its_training_with_the_default_suite():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("```yaml\n")[2].partition("```")[0]
    params = read_params(ROOT / "params.yaml")
    suites = {
        name: [matrix.model_dump(exclude_none=True) for _, matrix in params.blocks(name)] for name in params.suites
    }
    values = {**params.model_dump(mode="json"), "suites": {**suites, **yaml.safe_load(block)["suites"]}}

    example = make_plan(parse_as(Params, json.loads(json.dumps(values)), where=""), "mine")

    made = {job.key: job.name for job in make_plan(params, "quickstart").train}
    assert [made[job.key] for job in example.train if job.key in made] == ["glyphs-conv4-ridge-quick-s0"]
    assert len(example.train) == 12


def test_data_that_changed_are_refused_with_the_folders_to_delete(plan_of, project, monkeypatch):
    (job,) = plan_of().prepare
    monkeypatch.setattr(jobs, "build_store", lambda *_: SimpleNamespace(content_hash="1" * 64))
    job.dir.mkdir(parents=True)
    write_json(job.outputs["manifest"], {"content_hash": "0" * 64})
    write_json(job.dir / "sha256.json", {"manifest.json": sha256_of(job.outputs["manifest"])})

    with pytest.raises(DataError, match=rf"delete {job.dir} and cache/prepare/{job.key}, then rerun"):
        jobs.open_prepared(job)
