"""Hours of every training of the suites, from the timed steps and validations; estimated, not run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.families import trainings
from benchmarks.gpu.findings import Finding
from benchmarks.gpu.timing import images_per_step

from fewshot.experiments.experiment import Experiment
from fewshot.learners import CLASSIFIERS, EPISODIC_LEARNERS


@dataclass(frozen=True)
class Estimate:
    """Hours of one training.

    Attributes:
        training: its name.
        hours: by form of the arithmetic.
        source: "timed" if this very step was; otherwise "scaled" from the closest one by the number of images.
    """

    training: str
    hours: dict[str, float]
    source: str


def estimates(findings: Sequence[Finding]) -> list[Estimate]:
    """Return an estimate for every training whose backbone, learner and image size have a timed step."""
    timed = [found.numbers for found in findings if found.part == "timing" and "step_s" in found.numbers]
    experiments, estimated = trainings(), []
    for name, experiment in experiments.items():
        similar = [numbers for numbers in timed if _similar(experiment, experiments[numbers["training"]])]
        if similar:
            distances = [_distance(experiment, experiments[numbers["training"]]) for numbers in similar]
            nearest = similar[distances.index(min(distances))]["training"]
            hours = {
                numbers["form"]: _hours(experiment, numbers) for numbers in similar if numbers["training"] == nearest
            }
            estimated.append(Estimate(name, hours, "scaled" if any(min(distances)) else "timed"))
    return estimated


def _similar(experiment: Experiment, timed: Experiment) -> bool:
    """Return whether the step of one training says something about the other's: the head takes little of a step."""
    learners = {experiment.learner.name, timed.learner.name}
    return (
        experiment.backbone.as_json() == timed.backbone.as_json()
        and experiment.image_size == timed.image_size
        and (len(learners) == 1 or any(learners <= kind.keys() for kind in (EPISODIC_LEARNERS, CLASSIFIERS)))
    )


def _distance(experiment: Experiment, timed: Experiment) -> tuple[bool, int, int]:
    """Return how different the steps are: learner, support images, all images."""
    return (
        experiment.learner.name != timed.learner.name,
        abs(experiment.recipe.n_shot - timed.recipe.n_shot),
        abs(images_per_step(experiment) - images_per_step(timed)),
    )


def _hours(experiment: Experiment, numbers: dict[str, Any]) -> float:
    """Return hours of training with validation."""
    recipe = experiment.recipe
    steps = recipe.epochs * recipe.steps_per_epoch
    training = steps * numbers["step_s"] * images_per_step(experiment) / numbers["images"]
    validation = recipe.epochs * numbers.get("validation_s", 0.0) if recipe.validates else 0.0
    return (training + validation) / 3600
