"""The settings that a run gives its jobs."""

import pytest

from fewshot.errors import ParamsError
from fewshot.experiments.reader import read_files
from fewshot.workflow.frozen_params import freeze_params
from fewshot.workflow.plan import load_plan

PARAMS = """\
suite: one
include: more/*.yaml
suites:
  one: {only: {dataset: glyphs, learner: prototype, recipe: short}}
recipes:
  short: {epochs: 1, steps_per_epoch: 2, learning_rate: 1.0e-5}
"""
MORE = "suites: {two: {only: {dataset: glyphs, learner: ridge, recipe: short}}}\n"


@pytest.fixture
def files(project):
    (project / "params.yaml").write_text(PARAMS)
    (project / "more").mkdir()
    (project / "more" / "two.yaml").write_text(MORE)
    return read_files(overrides={"suite": "two"})


def keys(plan):
    return [(job.name, job.key) for job in (*plan.prepare, *plan.train, *plan.evaluate)]


def test_it_plans_the_same_jobs_without_the_included_files(files):
    before = keys(load_plan(suite="two"))
    frozen = freeze_params(files)
    for file in ("params.yaml", "more/two.yaml"):
        (files.path.parent / file).write_text("suites: [mistake")

    assert keys(load_plan(frozen)) == before  # with the suite that --config chose


def test_the_file_is_found_by_its_content(files):
    assert freeze_params(files) == freeze_params(files)
    assert freeze_params(files) != freeze_params(read_files())


def test_a_job_needs_no_other_suite(files):
    (files.path.parent / "more" / "two.yaml").write_text(MORE.replace("learner: ridge", "learner: ridgge"))

    assert load_plan(suite="one", other_suites=False).train
    with pytest.raises(ParamsError, match="ridgge"):
        load_plan(suite="one")
