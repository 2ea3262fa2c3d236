"""Exporting from a plan: the folder describes the trained experiment and its finished evaluations."""

import pytest

from fewshot.errors import CheckpointError
from fewshot.experiments.build import initial_learner
from fewshot.experiments.params import Params
from fewshot.files import read_json, write_json
from fewshot.settings import parse_as
from fewshot.weights.checkpoint import save_weights
from fewshot.workflow.jobs import export_job
from fewshot.workflow.plan import make_plan


@pytest.fixture
def plan(project, tiny_params):
    """Return a plan of one experiment on two targets."""
    return make_plan(parse_as(Params, tiny_params("ridge", targets=["glyphs", "omniglot"]), where=""), "tiny")


def finish_training(job):
    job.dir.mkdir(parents=True)
    save_weights(job.outputs["weights"], initial_learner(job.experiment))
    write_json(job.outputs["run"], {"data_hash": "d" * 64})


def test_export_holds_the_key_and_the_finished_evaluations(plan, project):
    job = plan.train[0]
    finish_training(job)
    evaluation = next(evaluation for evaluation in plan.of_experiment(job.name) if evaluation.target == "omniglot")
    evaluation.dir.mkdir(parents=True)
    result = {"shot": 1, "selection": "single", "accuracy": 0.5, "ci95": 0.01, "episodes": 20}
    record = {"target": "omniglot", "batch_norm": "running", "results": [result]}
    write_json(evaluation.outputs["json"], record)

    export_job(job.experiment, plan, project / "model")

    card = (project / "model" / "README.md").read_text(encoding="utf-8")
    assert read_json(project / "model" / "model.json")["train_key"] == job.key
    assert [line for line in card.splitlines() if line.startswith("| ")][2:] == [
        "| omniglot | 1 | 50.00 ± 1.00 | 20 | running |"
    ]
    assert f"training key {job.key}, data\n{'d' * 12}" in card


def test_experiment_that_shares_its_training_is_exported_under_its_own_name(project, tiny_params):
    values = tiny_params("ridge", **{"evaluate.n_way": [3, 4]})
    plan = make_plan(parse_as(Params, values, where=""), "tiny")
    finish_training(plan.train[0])
    experiment = plan.experiment("glyphs-conv4-ridge-quick-evaluate_4way-s0")

    export_job(experiment, plan, project / "model", plan.train[0].key)

    assert read_json(project / "model" / "model.json")["experiment"] == experiment.name
    assert "\n4-way accuracy" in (project / "model" / "README.md").read_text(encoding="utf-8")


def test_untrained_experiment_is_not_exported(plan, project):
    with pytest.raises(CheckpointError, match=f"snakemake --cores 1 {plan.train[0].name}"):
        export_job(plan.experiments[0], plan, project / "model")
