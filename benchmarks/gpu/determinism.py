"""Does a training give the same bytes again: when repeated, and when stopped and resumed from its checkpoint?"""

import tempfile
from functools import partial
from pathlib import Path

import torch
from benchmarks.gpu.families import (
    ADAPTIVE,
    COMPILED,
    EPISODIC,
    FORMS,
    ON_MINIBATCHES,
    Scale,
    checked_split,
    label,
    offered_forms,
    trainings,
)
from benchmarks.gpu.findings import Case, Outcome
from torch import Tensor

from fewshot.experiments.build import initial_learner
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.precision import reproducible_arithmetic
from fewshot.training.outer_step import OuterStep
from fewshot.training.parallel import ProcessGroup
from fewshot.training.state import Checkpoints, TrainingState

STEPS, STOP_AFTER = 6, 3
FAMILIES = (
    *(EPISODIC[0], EPISODIC[1], EPISODIC[2], EPISODIC[6], ADAPTIVE[0], ADAPTIVE[3], ADAPTIVE[4], ADAPTIVE[7]),
    *ON_MINIBATCHES,
)
COMPILED_FAMILY = EPISODIC[0]


def cases(scale: Scale) -> list[Case]:
    """Return the cases of this part."""
    experiments, found = trainings(), []
    for training in FAMILIES:
        forms = {name: FORMS[name] for name in offered_forms(experiments[training])}
        for form, changes in {**forms, **(COMPILED if training == COMPILED_FAMILY else {})}.items():
            experiment = scale.to(experiments[training], checking=True, **changes)
            name = f"same bytes, {label(experiment)}, {form}"
            found.append(Case("determinism", name, partial(same_bytes, scale, experiment)))
    return found


def same_bytes(scale: Scale, experiment: Experiment) -> Outcome:
    """Train a few steps three times, the last time stopped and resumed."""
    with tempfile.TemporaryDirectory() as folder:
        first, again, resumed = (
            trained(scale, experiment, Path(folder) / name, name) for name in ("first", "again", "resumed")
        )
    repeated = sum(not torch.equal(one, other) for one, other in zip(first, again, strict=True))
    stopped = sum(not torch.equal(one, other) for one, other in zip(first, resumed, strict=True))
    text = f"of {len(first)} tensors, {repeated} differ in a second run and {stopped} in a resumed one"
    return text, repeated == stopped == 0, {"tensors": len(first), "repeated": repeated, "resumed": stopped}


def trained(scale: Scale, experiment: Experiment, folder: Path, run: str) -> list[Tensor]:
    """Return the state of a learner after a few outer steps; all runs but the first compute one step ahead."""
    outer_step, state = begin(scale, experiment, folder)
    for step in range(STEPS):
        if run == "resumed" and step == STOP_AFTER:
            state.save()
            outer_step, state = begin(scale, experiment, folder)
            assert state.resume()
        ahead = run != "first" and step + 1 not in (STOP_AFTER, STEPS)
        state.progress.step_done(*outer_step.take(step, ahead=ahead))
    return [value.detach().cpu() for value in outer_step.learner.state_dict().values()]


def begin(scale: Scale, experiment: Experiment, folder: Path) -> tuple[OuterStep, TrainingState]:
    """Return the outer step of a new learner, and its state."""
    reproducible_arithmetic(experiment.recipe.precision)
    learner = initial_learner(experiment).to(scale.device)
    split = checked_split(experiment.image_size)
    outer_step = OuterStep(experiment, split, learner, ProcessGroup(device=scale.device))
    return outer_step, TrainingState(learner, outer_step.optimizer, Checkpoints(folder))
