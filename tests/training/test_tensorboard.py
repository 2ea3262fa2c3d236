"""Curves for TensorBoard: a point per epoch, also after a resumed run; results and keys are those without them."""

import csv
import sys
import types

import pytest

from fewshot.errors import ParamsError
from fewshot.experiments.params import Params
from fewshot.settings import parse_as
from fewshot.training import tensorboard
from fewshot.training.state import Checkpoints
from fewshot.training.train import train
from fewshot.workflow.jobs import train_job
from fewshot.workflow.plan import make_plan

POINTS: dict[str, list[tuple[str, float, int]]] = {}


class RecordingWriter:
    """In place of torch's SummaryWriter: keeps the points in memory, by folder."""

    def __init__(self, folder: str) -> None:
        self.points = POINTS[folder] = []

    def add_scalar(self, curve: str, value: float, step: int) -> None:
        self.points.append((curve, value, step))

    def flush(self) -> None:
        pass


@pytest.fixture
def recorded(monkeypatch):
    POINTS.clear()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=RecordingWriter))
    return POINTS


@pytest.fixture
def run(tiny_store, tmp_path):
    """Return a function that trains and returns the folders of the results and of the curves."""

    def train_in(experiment, name, with_curves=True):
        out, checkpoints, curves = (tmp_path / name / part for part in ("out", "checkpoints", "curves"))
        for folder in (out, checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        train(experiment, tiny_store, out, Checkpoints(checkpoints), curves=curves if with_curves else None)
        return out, curves

    return train_in


def rows(out):
    with (out / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_points_are_the_history(tiny_experiment, run, recorded):
    out, curves = run(tiny_experiment("prototype"), "run")

    expected = [
        (curve, float(row[curve]), int(row["step"]))
        for row in rows(out)
        for curve in ("train_loss", "train_accuracy", "learning_rate", "validation_accuracy", "validation_ci95")
    ]
    assert recorded[str(curves)] == expected
    assert len(expected) == 3 * 5


def test_inner_gradients_are_curves_except_those_of_frozen_layers(tiny_experiment, run, recorded):
    validation = {"episodes": 6, "n_shot": 2, "n_query": 3, "inner_gradients": 2}
    recipe = {"epochs": 1, "steps_per_epoch": 1, "validation": validation}
    _, curves = run(tiny_experiment("anil", "conv4_maml", recipe=recipe), "run")
    assert [curve for curve, *_ in recorded[str(curves)] if "gradient" in curve] == ["gradient_norm_head"]


def test_a_resumed_run_has_all_points_once(tiny_experiment, run, recorded):
    _, curves = run(tiny_experiment("prototype"), "run")
    points = list(recorded[str(curves)])
    run(tiny_experiment("prototype"), "run")
    assert recorded[str(curves)] == points


def test_results_are_those_of_a_run_without_curves(tiny_experiment, run, recorded):
    with_curves, without = run(tiny_experiment("ridge"), "with")[0], run(tiny_experiment("ridge"), "without", False)[0]
    files = sorted(file.name for file in without.iterdir())
    assert files == sorted(file.name for file in with_curves.iterdir())
    assert all((with_curves / name).read_bytes() == (without / name).read_bytes() for name in files)


def test_keys_do_not_depend_on_it(tiny_params):
    values = tiny_params("ridge")
    with_curves, without = (
        make_plan(parse_as(Params, {**values, "train": {"tensorboard": flag}}, where=""), "tiny")
        for flag in (True, False)
    )
    assert [job.key for job in with_curves.train] == [job.key for job in without.train]


def test_a_missing_package_is_an_error_before_any_work(tiny_params, monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    plan = make_plan(parse_as(Params, {**tiny_params("ridge"), "train": {"tensorboard": True}}, where=""), "tiny")
    with pytest.raises(ParamsError, match=r"train.tensorboard: true needs the package tensorboard.*make tensorboard"):
        train_job(plan.train[0], plan)


def test_tensorboard_reads_the_files(tiny_experiment, run):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out, curves = run(tiny_experiment("prototype"), "run")

    read = events.EventAccumulator(str(curves)).Reload()

    found = [(event.step, round(event.value, 5)) for event in read.Scalars("train_loss")]
    assert found == [(int(row["step"]), round(float(row["train_loss"]), 5)) for row in rows(out)]
