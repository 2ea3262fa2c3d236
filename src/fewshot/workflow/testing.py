"""Test any finished training with another protocol: `fewshot test`. Nothing is trained.

The results are stored under `results/tests`, apart from those of suites, and kept in `cache/` like all others.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fewshot import paths
from fewshot.errors import ParamsError, did_you_mean, quoted
from fewshot.experiments.matrix import with_protocol
from fewshot.files import read_json
from fewshot.workflow.jobs import evaluate_job, prepare_job, trained_weights
from fewshot.workflow.plan import Plan, plan_experiments, plans_of_file
from fewshot.workflow.planned_jobs import EvaluateJob, TrainJob


def find_training(plan: Plan, wanted: str) -> tuple[Plan, str]:
    """Return the plan of the first suite with an experiment or training of this name or key, and the name.

    Args:
        plan: of the suite that is searched first; the others of its file follow.
        wanted: name of an experiment or training, or the first four or more characters of a training's key.

    Raises:
        ParamsError: if there is none.
    """
    known: list[str] = []
    for searched in plans_of_file(plan):
        for job in searched.train:
            if len(wanted) >= 4 and job.key.startswith(wanted):
                return searched, job.name
        names = [*(experiment.name for experiment in searched.experiments), *(job.name for job in searched.train)]
        if wanted in names:
            return searched, wanted
        known += names
    raise ParamsError(
        f"no suite has an experiment, or a training with the key, {quoted(wanted)}.{did_you_mean(wanted, known)} "
        "'fewshot list --suite NAME' lists those of a suite"
    )


def evaluate_training(plan: Plan, name: str, protocol: Mapping[str, Any]) -> list[str]:
    """Evaluate a finished training with another protocol; return a line per number.

    Args:
        plan: a plan with the experiment or training.
        name: name of the experiment or training.
        protocol: fields of `evaluate` that differ from the experiment's, as in params.yaml.

    Raises:
        ParamsError: if the protocol does not fit the learner or the data.
        CheckpointError: if the training is not finished.
    """
    training: TrainJob = plan.find("train", name)
    trained_weights(training, plan.experiment(name), plan)
    experiments = with_protocol(plan.params, plan.experiment(name), protocol)
    tests = plan_experiments(plan.params, plan.suite, experiments, plan.results)
    lines = []
    for planned in tests.evaluate:
        job = _apart(planned)
        prepare_job(job.prepare)
        evaluate_job(job, tests)
        lines += _lines(job)
    return lines


def _apart(job: EvaluateJob) -> EvaluateJob:
    """Return an evaluation whose results, and episode lists, are stored apart from those of suites."""
    root = job.results / paths.TESTS
    return replace(job, results=root, prepare=replace(job.prepare, results=root))


def _lines(job: EvaluateJob) -> list[str]:
    """Return a line per number of a finished evaluation."""
    record = read_json(job.outputs["json"])
    variant, seen = job.experiment.test_variant, job.experiment.seen_classes(job.prepare.dataset).text
    remark = f"; {seen}" if seen else ""
    return [
        f"{job.train.name} on {job.target}, {record['n_way']}-way {row['shot']}-shot, {variant}"
        f"{', ensemble' if row['selection'] == 'ensemble' else ''}: "
        f"{100 * row['accuracy']:.2f} ± {100 * row['ci95']:.2f} % ({row['episodes']} episodes{remark})"
        for row in record["results"]
    ]
