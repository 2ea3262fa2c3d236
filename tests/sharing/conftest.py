"""A finished job with random weights, as training would have left it, and images to classify."""

import numpy as np
import pytest
import torch

from fewshot.experiments.build import initial_learner
from fewshot.experiments.params import Params
from fewshot.files import write_json
from fewshot.settings import parse_as
from fewshot.sharing.export import export
from fewshot.weights.checkpoint import save_weights
from fewshot.workflow.plan import make_plan


@pytest.fixture
def finished_job(project, tiny_params):
    """Return a function that gives a job whose outputs exist, and its evaluations; arguments as of `tiny_params`."""

    def make(*arguments, **changes):
        plan = make_plan(parse_as(Params, tiny_params(*arguments, **changes), where=""), "tiny")
        job = plan.train[0]
        job.dir.mkdir(parents=True, exist_ok=True)
        save_weights(job.outputs["weights"], initial_learner(job.experiment))
        write_json(job.outputs["run"], {"data_hash": "d" * 64})
        return job, plan.of_experiment(job.name)

    return make


@pytest.fixture
def exported(finished_job, project):
    """Return a function that gives the folder of an export; arguments as of `tiny_params`."""

    def make(*arguments, **changes):
        job, evaluations = finished_job(*arguments, **changes)
        export(job, evaluations, project / "model")
        return project / "model"

    return make


@pytest.fixture
def coloured_images():
    """Return a function that draws images of one colour each under noise; classes differ by colour."""

    def draw(colours, seed=0, size=16):
        random = np.random.default_rng(seed)
        noise = random.normal(0, 20, (len(colours), size, size, 3))
        palette = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [200, 200, 30]])
        return list(np.clip(palette[list(colours)][:, None, None] + noise, 0, 255).astype(np.uint8))

    return draw


@pytest.fixture(autouse=True)
def torch_seed():
    torch.manual_seed(0)
