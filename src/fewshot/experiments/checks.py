"""What is wrong with a resolved experiment: parts that do not fit each other, the data or a start."""

import os
from collections.abc import Mapping
from typing import Any

from fewshot.backbones import BACKBONES
from fewshot.datasets import DATASETS
from fewshot.errors import ParamsError, locate_errors, quoted
from fewshot.experiments.experiment import Choice, Experiment, parts_of
from fewshot.experiments.params import Matrix
from fewshot.learners import ADAPTIVE_LEARNERS, LEARNERS
from fewshot.registry import Part
from fewshot.settings import parse_as

MAX_NAME = 200  # file names are limited to 255 bytes, and logs and scratch files add to the name


def check_name(experiment: Experiment, where: str) -> None:
    """Reject a name too long for a file."""
    if len(experiment.name) > MAX_NAME:
        raise ParamsError(
            f"{where}: the name {quoted(experiment.name)} has {len(experiment.name)} characters; at most {MAX_NAME} "
            "fit in a file name: use a recipe instead of overrides"
        )


def check_start(experiment: Experiment, where: str) -> None:
    """Reject a start from a training that has other weights, none, or that lacks running statistics."""
    init = experiment.init
    if init is None:
        return
    if experiment.weights is not None:
        raise ParamsError(f"{where}: weights and init exclude each other; remove one")
    for name, recipe, start in (("", experiment.recipe, experiment), (".init", init.recipe, init)):
        if recipe.epochs == 0:
            raise ParamsError(
                f"{where}{name}: recipe {start.recipe_name!r} has epochs 0, so nothing is trained; to test a "
                "trained backbone with another head, give its training variants"
            )
    ours, theirs = (_weights_of(choice) for choice in (experiment.backbone, init.backbone))
    if ours != theirs or experiment.image_size != init.image_size:
        raise ParamsError(
            f"{where}.init: its backbone {_described(theirs, init)} differs from {_described(ours, experiment)}; both "
            "trainings need the same"
        )
    if init.learner.name in ADAPTIVE_LEARNERS and experiment.learner.name not in ADAPTIVE_LEARNERS:
        raise ParamsError(
            f"{where}.init: learner {init.learner.label!r} keeps no running batch-norm statistics, which learner "
            f"{experiment.learner.label!r} needs; start from a learner with a head or a classifier"
        )


def _weights_of(backbone: Choice) -> dict[str, Any]:
    """Return the name of a backbone and the settings that determine its trained tensors."""
    ignored = getattr(BACKBONES[backbone.name].settings, "not_weights", ())
    return {name: value for name, value in backbone.as_json().items() if name not in ignored}


def _described(backbone: Mapping[str, Any], experiment: Experiment) -> str:
    """Return "conv4 (filters 64) at 32 pixels"."""
    settings = ", ".join(f"{name} {value}" for name, value in backbone.items() if name != "name")
    return f"{backbone['name']}{f' ({settings})' if settings else ''} at {experiment.image_size} pixels"


def check_parts(experiment: Experiment, where: str) -> None:
    """Reject learners that are incompatible with their backbone, recipe or test protocol."""
    learner, backbone = experiment.learner, experiment.backbone
    part = LEARNERS[learner.name]
    _check_unit(experiment, part, where)
    if part.check is not None:
        settings = parse_as(part.settings, dict(learner.settings), where=f"learners.{learner.label}")
        with locate_errors(where):
            part.check(learner.name, settings, backbone.name, backbone.settings, experiment.context)
    trained = experiment.recipe.n_way
    scored = {"evaluate.n_way": experiment.evaluate.n_way}
    if experiment.recipe.validates:
        scored["validation.n_way"] = experiment.recipe.validation_form.n_way
    for setting, n_way in scored.items() if part.fixed_ways else ():
        if n_way != trained:
            raise ParamsError(
                f"{where}: learner {learner.label!r} is trained for {trained} ways and cannot be tested with {setting} "
                f"{n_way}; make them equal"
            )


def _check_unit(experiment: Experiment, part: Part, where: str) -> None:
    """Reject a recipe for minibatches with a learner of episodes, the other way round, and a test at its shots."""
    label, recipe = experiment.learner.label, experiment.recipe
    if part.minibatches and recipe.batch_size is None:
        raise ParamsError(
            f"{where}: learner {label!r} is trained on minibatches of images, but recipe {experiment.recipe_name!r} "
            "has no batch_size; add it, or choose a recipe that has one"
        )
    if recipe.batch_size is not None and not part.minibatches:
        raise ParamsError(
            f"{where}: learner {label!r} is trained on episodes, but recipe {experiment.recipe_name!r} has a "
            "batch_size; choose a recipe without one"
        )
    if recipe.batch_size is not None and experiment.evaluate.shots == "train_shot":
        raise ParamsError(f"{where}.shots: learner {label!r} is trained without shots; give numbers, such as [1, 5]")


def check_fits(experiment: Experiment, where: str) -> None:
    """Reject episodes too large for a data set, as far as its size is known before preparation."""
    for dataset, draw in experiment.draws():
        split, form, use, section = draw.split, draw.form, draw.use, draw.section
        splits = DATASETS[dataset.name].splits
        if splits is None:
            continue
        parts = parts_of(split)
        classes, smallest = sum(splits[part][0] for part in parts), min(splits[part][1] for part in parts)
        if form.n_way > classes:
            raise ParamsError(
                f"{where}: {use} with n_way {form.n_way}, but {dataset.label} has {classes} {split} classes; "
                f"lower {section}n_way"
            )
        if form.images_per_class > smallest:
            raise ParamsError(
                f"{where}: {use} with n_shot {form.n_shot} and n_query {form.n_query} needs {form.images_per_class} "
                f"images per class, but the smallest {split} class of {dataset.label} has {smallest}; "
                f"lower {'shots' if section == 'evaluate.' else f'{section}n_shot'} or {section}n_query"
            )


def check_given_weights(matrix: Matrix, where: str) -> None:
    """Raise `ParamsError` unless the weights file that a matrix names exists."""
    if matrix.weights is not None and not os.path.isfile(matrix.weights):
        raise ParamsError(
            f"{where}.weights: {quoted(matrix.weights)} is not a file; give the path of a weights file, relative to "
            "the project folder"
        )
