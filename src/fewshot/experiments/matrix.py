"""Suites of `params.yaml` -> experiments: matrices expanded, names resolved to typed settings, everything checked."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewshot.errors import ParamsError, Problems, allowed_values, locate_errors, quoted
from fewshot.experiments.checks import check_fits, check_given_weights, check_name, check_parts, check_start
from fewshot.experiments.experiment import NO_CHANGES, Choice, Experiment, stored_image_size
from fewshot.experiments.named import BACKBONE, DATASET, LEARNER, find_recipe
from fewshot.experiments.params import AS_TRAINED, Augmentation, Evaluate, Matrix, Params, Recipe
from fewshot.learners import check_evaluation
from fewshot.learners.settings import EvaluationSettings
from fewshot.registry import find_part
from fewshot.settings import parse_as

MAX_EXPERIMENTS = 20_000

# Overrides in a suite with one of these prefixes and a dot do not belong to the recipe.
OTHER_SECTIONS = ("learner", "backbone", "evaluate")

RECIPE_SECTIONS = ("augmentation", "validation")

# Keys of a block that every experiment has; those besides are overrides, or concern its tests.
PARTS = ("dataset", "backbone", "learner", "recipe", "seed")

# Keys of a block that concern its tests alone.
TESTED_ONLY = ("shots", "targets", "episodes", "variants", "weights")

# Short forms of override values in the name of a variant.
SHORT_NAMES = {"bfloat16": "bf16", "float32": "fp32"}


def suite_experiments(params: Params, suite: str) -> list[Experiment]:
    """Return the experiments of a suite in file order.

    Raises:
        ParamsError: with every problem found: unknown names, settings out of range, duplicated experiments, data sets
            that are too small, weights files that do not exist.
    """
    check_suite_name(suite, params.suites)
    problems = Problems()
    _check_sections(params, problems)
    experiments: dict[str, Experiment] = {}
    for where, matrix in params.blocks(suite):
        with problems.collected():
            check_given_weights(matrix, where)
        with problems.collected():
            for row in _combinations(matrix, where):
                with problems.collected():
                    for experiment in _variants_of(params, _resolve(params, matrix, row, where), where):
                        if experiment.name in experiments:
                            raise ParamsError(
                                f"{where}: duplicate experiment {experiment.name} in the suite; remove one"
                            )
                        experiments[experiment.name] = experiment
    problems.raise_all()
    return list(experiments.values())


def experiment_blocks(params: Params, suite: str) -> Iterator[tuple[dict[str, Any], Experiment]]:
    """Yield the experiments of a suite in file order, each with the keys of a block that gives it alone."""
    for where, matrix in params.blocks(suite):
        given = matrix.model_dump(mode="json", exclude_unset=True)
        for row in _combinations(matrix, where):
            for experiment in _variants_of(params, _resolve(params, matrix, row, where), where):
                tested = {} if experiment.test_variant == AS_TRAINED else {"variants": [experiment.test_variant]}
                single = {key: value for key, value in given.items() if key != "variants"}
                yield {**single, **row, **tested}, experiment


def check_other_suites(params: Params, suite: str) -> None:
    """Check every block of the suites that are not planned, so that no mistake waits there unseen.

    Every key and value of a block is checked, but not every combination of its values; `fewshot check` does that.
    Files need not exist yet: the weights that one suite evaluates may be those that another one trains.

    Raises:
        ParamsError: with every problem found.
    """
    problems = Problems()
    with problems.collected():
        check_suite_name(params.suite, params.suites)
    for name in [name for name in params.suites if name != suite]:
        for where, matrix in params.blocks(name):
            with problems.collected():
                for row in _rows_with_all_values(matrix, where):
                    with problems.collected():
                        _variants_of(params, _resolve(params, matrix, row, where), where)
    problems.raise_all()


def check_suite_name(name: str, suites: Collection[str], where: str = "suite") -> None:
    """Raise `ParamsError` unless there is a suite of this name, which was given `where`."""
    if name not in suites:
        raise ParamsError(f"{where}: unknown suite {quoted(name)}; {allowed_values(name, suites)}")


def _check_sections(params: Params, problems: Problems) -> None:
    """Check every entry of recipes, learners, backbones, prepare and variants, used by the suite or not."""
    with problems.collected():
        if AS_TRAINED in params.variants:
            raise ParamsError(f"variants.{AS_TRAINED}: this name means no changes; choose another")
    for name in params.recipes:
        with problems.collected():
            find_recipe(params, name, {}, f"recipes.{name}")
    for family in (DATASET, BACKBONE, LEARNER):
        for label in getattr(params, family.section):
            with problems.collected():
                family.choose(params, label, f"{family.section}.{label}")


def _combinations(matrix: Matrix, where: str) -> Iterator[dict[str, Any]]:
    """Yield every combination of a matrix's values."""
    axes = _axes(matrix, where)
    if math.prod(map(len, axes.values())) > MAX_EXPERIMENTS:
        raise ParamsError(f"{where}: more than {MAX_EXPERIMENTS} experiments in one block; split it")
    for combination in itertools.product(*axes.values()):
        yield dict(zip(axes, combination, strict=True))


def _rows_with_all_values(matrix: Matrix, where: str) -> Iterator[dict[str, Any]]:
    """Yield as few combinations as contain every value of a matrix, apart from the seeds."""
    axes = _axes(matrix, where)
    axes["seed"] = axes["seed"][:1]
    for number in range(max(map(len, axes.values()))):
        yield {key: values[number % len(values)] for key, values in axes.items()}


def _axes(matrix: Matrix, where: str) -> dict[str, list[Any]]:
    """Return the values of each key of a matrix that may have several."""
    given = {key: getattr(matrix, key) for key in PARTS}
    problems = Problems()
    for key, value in (matrix.model_extra or {}).items():
        with problems.collected():
            _check_override(key, value, where)
            given[key] = value
    axes = {key: list(value) if isinstance(value, (list, tuple)) else [value] for key, value in given.items()}
    for key, values in axes.items():
        if not values:
            problems.add(f"{where}.{key}: the list is empty; give at least one value")
        equal: dict[float, int | float] = {}
        for value in filter(_is_number, values):
            first = equal.setdefault(value, value)
            if type(first) is not type(value):
                problems.add(f"{where}.{key}: {first} and {value} are the same value; remove one")
    problems.raise_all()
    return axes


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_override(key: str, value: Any, where: str) -> None:
    """Reject keys that name no setting, and values that are not scalars or lists of scalars."""
    section, dot, setting = key.partition(".")
    known = [*Matrix.model_fields, *Recipe.model_fields]
    if section not in (*Recipe.model_fields, *OTHER_SECTIONS) or bool(dot) != bool(setting):
        others = [f"{other}.<setting>" for other in OTHER_SECTIONS]
        raise ParamsError(f"{where}: unknown key {quoted(key)}; {allowed_values(key, [*known, *others])}")
    if section in OTHER_SECTIONS and not dot:
        raise ParamsError(f"{where}: unknown key {quoted(key)}; write {section}.<setting>")
    if dot and section in Recipe.model_fields and section not in RECIPE_SECTIONS:
        raise ParamsError(f"{where}: unknown key {quoted(key)}; {section} has no settings of its own")
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (dict, list)) for item in items):
        raise ParamsError(f"{where}.{key}: only plain values or lists of them are allowed in a suite; use a recipe")


def _resolve(params: Params, matrix: Matrix, row: dict[str, Any], where: str) -> Experiment:
    """Return the experiment of one combination of a matrix."""
    overrides = {key: value for key, value in row.items() if key not in PARTS}
    replaced = ("shots", "targets", "episodes", "variants")
    given = {key: getattr(matrix, key) for key in replaced if getattr(matrix, key) is not None}
    protocol = {**params.evaluate.model_dump(mode="json"), **given, **_overrides_of(overrides, "evaluate")}
    problems = Problems()
    with problems.collected():
        dataset = DATASET.choose(params, row["dataset"], where)
    with problems.collected():
        backbone = BACKBONE.choose(params, row["backbone"], where, _overrides_of(overrides, "backbone"))
    with problems.collected():
        learner = LEARNER.choose(params, row["learner"], where, _overrides_of(overrides, "learner"))
    with problems.collected():
        recipe = find_recipe(params, row["recipe"], _recipe_overrides(overrides), where)
    with problems.collected():
        evaluate = parse_as(Evaluate, protocol, where=f"{where}.evaluate")
        targets = tuple(DATASET.choose(params, name, f"{where}.targets") for name in evaluate.targets or ())
    with problems.collected():
        init = None if matrix.init is None else _start(params, matrix.init, row, f"{where}.init")
    problems.raise_all()
    start = "" if init is None else f"-from_{init.learner.label}_{init.training_variant}"
    trained = _training_overrides(params, row, overrides, (recipe, backbone, learner), where)
    experiment = Experiment(
        dataset=dataset,
        backbone=backbone,
        learner=learner,
        recipe_name=row["recipe"],
        recipe=recipe,
        variant=_variant(row["recipe"], overrides) + start,
        training_variant=_variant(row["recipe"], trained) + start,
        seed=row["seed"],
        image_size=recipe.image_size or stored_image_size(dataset),
        evaluate=evaluate,
        weights=None if matrix.weights is None else Path(matrix.weights),
        targets=targets or (dataset,),
        init=init,
    )
    check_name(experiment, where)
    check_start(experiment, where)
    check_parts(experiment, where)
    check_fits(experiment, where)
    return experiment


def _start(params: Params, values: Mapping[str, Any], row: Mapping[str, Any], where: str) -> Experiment:
    """Return the training that an experiment starts from; it has no evaluation.

    Args:
        params: the whole file.
        values: the block `init`.
        row: the values of the experiment; data set, seed and, if the block has none, the backbone are taken from it.
        where: dotted path of the block, for messages.
    """
    for key in values:
        if key in ("dataset", "seed"):
            raise ParamsError(
                f"{where}.{key}: not allowed here: data set and seed are those of the training that starts"
            )
        if key in TESTED_ONLY or key.startswith("evaluate."):
            raise ParamsError(f"{where}.{key}: not allowed here: a start is only trained, not tested; remove it")
    backbone = {key: row[key] for key in row if key.partition(".")[0] == "backbone"}
    own = any(key.partition(".")[0] == "backbone" for key in values)
    block = {"dataset": row["dataset"], "seed": row["seed"], **({} if own else backbone), **values, "shots": [1]}
    matrix = parse_as(Matrix, block, where=where)
    rows = list(_combinations(matrix, where))
    if len(rows) != 1:
        raise ParamsError(
            f"{where}: has {len(rows)} combinations of values, but a start is one training; give no lists"
        )
    return replace(_resolve(params, matrix, rows[0], where), targets=())


def with_protocol(params: Params, experiment: Experiment, protocol: Mapping[str, Any]) -> list[Experiment]:
    """Return an experiment with another test protocol, once per variant.

    Args:
        params: the whole file.
        experiment: one of its experiments.
        protocol: fields of `evaluate` that differ.

    Raises:
        ParamsError: if a value is out of range, a name unknown, or the protocol does not fit the learner or the data.
    """
    variants = {} if experiment.test_variant == AS_TRAINED else {"variants": (experiment.test_variant,)}
    targets = tuple(target.label for target in experiment.targets)
    values = {**experiment.evaluate.model_dump(), "targets": targets, **variants, **protocol}
    evaluate = parse_as(Evaluate, values, where="evaluate")
    plain = replace(
        experiment,
        variant=experiment.training_variant,
        test_variant=AS_TRAINED,
        changes=NO_CHANGES,
        evaluate=evaluate,
        targets=tuple(DATASET.choose(params, name, "evaluate.targets") for name in evaluate.targets or targets),
    )
    check_parts(plain, "evaluate")
    check_fits(plain, "evaluate")
    return _variants_of(params, plain, "evaluate")


def _variants_of(params: Params, trained: Experiment, where: str) -> list[Experiment]:
    """Return an experiment once per variant of its evaluation."""
    return [_tested(params, trained, name, where) for name in trained.evaluate.variants]


def _tested(params: Params, trained: Experiment, name: str, where: str) -> Experiment:
    """Return an experiment whose trained learner is evaluated in a variant."""
    if name == AS_TRAINED:
        return trained
    with locate_errors(f"{where}.variants"):
        changes: EvaluationSettings = find_part("variant", name, {AS_TRAINED: NO_CHANGES, **params.variants})
    experiment = replace(trained, variant=f"{trained.variant}-{name}", test_variant=name, changes=changes)
    check_name(experiment, where)
    with locate_errors(f"{where}: variant {name!r}"):
        check_evaluation(
            trained.learner.name,
            changes,
            backbone=trained.backbone.name,
            context=trained.context,
            backbone_settings=trained.backbone.settings,
            **trained.learner.settings,
        )
        if changes.augmented_support is not None and trained.recipe.augmentation == Augmentation():
            raise ParamsError(
                f"augmented_support repeats the augmentation of the training, but recipe {trained.recipe_name!r} has "
                "none; set its augmentation, or leave augmented_support out"
            )
    return experiment


def _training_overrides(
    params: Params,
    row: Mapping[str, Any],
    overrides: Mapping[str, Any],
    parts: tuple[Recipe, Choice, Choice],
    where: str,
) -> dict[str, Any]:
    """Return the overrides that give the training another value than its recipe, learner or backbone does.

    Args:
        params: the whole file.
        row: names of the recipe, learner and backbone.
        overrides: those of the suite.
        parts: recipe, backbone and learner with the overrides.
        where: dotted path for messages.
    """
    if not overrides:
        return {}
    plain = _training_values(
        find_recipe(params, row["recipe"], {}, where),
        BACKBONE.choose(params, row["backbone"], where),
        LEARNER.choose(params, row["learner"], where),
    )
    resolved = _training_values(*parts)
    return {key: value for key, value in overrides.items() if key in resolved and plain.get(key) != resolved[key]}


def _training_values(recipe: Recipe, backbone: Choice, learner: Choice) -> dict[str, Any]:
    """Return the values that overrides can replace in a training: `n_shot`, `validation.n_shot`, `learner.bound`."""
    values = recipe.model_dump(mode="json")
    sections = {name: values[name] for name in RECIPE_SECTIONS}
    sections |= {"backbone": backbone.settings, "learner": learner.settings}
    return values | {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def _variant(recipe: str, overrides: Mapping[str, Any]) -> str:
    """Return the name of a recipe with overrides."""
    return "-".join([recipe, *(_variant_token(key, value) for key, value in overrides.items())])


def _recipe_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides of recipe fields, such as `n_shot` or `validation.n_shot`."""
    return {key: value for key, value in overrides.items() if key.partition(".")[0] not in OTHER_SECTIONS}


def _overrides_of(overrides: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the overrides `kind.setting`, without the prefix."""
    return {key.partition(".")[2]: value for key, value in overrides.items() if key.startswith(f"{kind}.")}


def _variant_token(key: str, value: Any) -> str:
    """Name an override in a variant: `5shot`, `bf16`, `qpth`, `no_flip`, `filters32`, `validation_1shot`."""
    section, _, short = key.rpartition(".")
    if section in ("validation", "evaluate"):
        return f"{section}_{_variant_token(short, value)}"
    if short in ("n_shot", "n_way", "n_query"):
        return f"{value}{short[2:]}"
    if isinstance(value, bool):
        return short if value else f"no_{short}"
    if isinstance(value, str):
        return SHORT_NAMES.get(value, value)
    return f"{short}{value}"
