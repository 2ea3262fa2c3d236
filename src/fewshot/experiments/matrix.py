"""Suites of `params.yaml` -> experiments: matrices expanded, names resolved to typed settings, everything checked."""

import itertools
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fewshot.backbones import BACKBONES
from fewshot.datasets import DATASETS
from fewshot.digests import path_digest
from fewshot.episodes.form import EpisodeForm
from fewshot.errors import ParamsError, Problems, allowed_values, locate_errors, quoted
from fewshot.experiments.params import AS_TRAINED, Augmentation, Evaluate, Matrix, Params, Recipe
from fewshot.learners import ADAPTIVE_LEARNERS, LEARNERS, check_evaluation
from fewshot.learners.context import LearnerContext
from fewshot.learners.settings import EvaluationSettings
from fewshot.registry import Part, find_part
from fewshot.settings import parse_as

MAX_EXPERIMENTS = 20_000
MAX_BASE_HOPS = 2

# Overrides in a suite with one of these prefixes and a dot do not belong to the recipe.
OTHER_SECTIONS = ("learner", "backbone", "evaluate")
MAX_NAME = 200  # file names are limited to 255 bytes, and logs and scratch files add to the name

NO_CHANGES = EvaluationSettings()

RECIPE_SECTIONS = ("augmentation", "validation")

# Short forms of override values in the name of a variant.
SHORT_NAMES = {"bfloat16": "bf16", "float32": "fp32"}


@dataclass(frozen=True)
class Choice:
    """A backbone or learner with its complete settings.

    Attributes:
        label: the name used in `params.yaml` and in experiment names.
        name: the registered name.
        settings: every setting, defaults included.
    """

    label: str
    name: str
    settings: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return name and settings as recorded in result files."""
        return {"name": self.name, **self.settings}


@dataclass(frozen=True)
class Draw:
    """Episodes that an experiment draws from one split of a data set.

    Attributes:
        split: name of the split; "trainval" is the union of train and validation.
        form: form of the episodes.
        use: training, validation or evaluation.
        recipe: name of the experiment's recipe.
    """

    split: str
    form: EpisodeForm
    use: Literal["training", "validation", "evaluation"]
    recipe: str

    @property
    def section(self) -> str:
        """Prefix of the settings that give its form: "" for those of the recipe."""
        return {"training": "", "validation": "validation.", "evaluation": "evaluate."}[self.use]

    @property
    def place(self) -> str:
        """Prefix of these settings in `params.yaml`."""
        return self.section if self.use == "evaluation" else f"recipes.{self.recipe}.{self.section}"


@dataclass(frozen=True)
class Experiment:
    """One training and its evaluations, fully resolved.

    Attributes:
        variant: recipe and overrides, the part of the name besides data set, backbone, learner and seed.
        training_variant: recipe and those overrides that change the training; the part of the training's name.
        image_size: side of the network's input images, pixels.
        evaluate: the test protocol.
        targets: data sets it is tested on.
        test_variant: name of the changes in evaluation; "as_trained" if there are none.
        changes: settings of the evaluation that differ from those of the training.
        weights: file of trained weights used instead of training, or None.
        init: the training whose backbone this one starts from, or None.
    """

    dataset: Choice
    backbone: Choice
    learner: Choice
    recipe_name: str
    recipe: Recipe
    variant: str
    training_variant: str
    seed: int
    image_size: int
    evaluate: Evaluate
    targets: tuple[Choice, ...]
    test_variant: str = AS_TRAINED
    changes: EvaluationSettings = NO_CHANGES
    weights: Path | None = None
    init: "Experiment | None" = None

    @property
    def group(self) -> str:
        """Name without the seed."""
        return f"{self.dataset.label}-{self.backbone.label}-{self.learner.label}-{self.variant}"

    @property
    def name(self) -> str:
        """Unique within a suite, readable, safe as a file name."""
        return f"{self.group}-s{self.seed}"

    @property
    def training_name(self) -> str:
        """Name of the training alone, which experiments that differ only in their evaluation share."""
        parts = (self.dataset.label, self.backbone.label, self.learner.label, self.training_variant, f"s{self.seed}")
        return "-".join(parts)

    @property
    def trainings(self) -> tuple["Experiment", ...]:
        """This experiment and those whose training it starts from, the latest first."""
        return (self, *(() if self.init is None else self.init.trainings))

    @property
    def shots(self) -> tuple[int, ...]:
        """The numbers of shots it is tested with."""
        return (self.recipe.n_shot,) if self.evaluate.shots == "train_shot" else self.evaluate.shots

    @property
    def test_form(self) -> EpisodeForm:
        """Form of a test episode with the largest number of shots."""
        return EpisodeForm(self.evaluate.n_way, max(self.shots), self.evaluate.n_query)

    def draws(self) -> list[tuple[Choice, Draw]]:
        """Return the data sets it draws episodes from, and which."""
        recipe, name, wanted = self.recipe, self.recipe_name, []
        if recipe.epochs and self.weights is None:
            if recipe.batch_size is None:
                wanted.append((self.dataset, Draw(recipe.train_split, recipe.form, "training", name)))
            if recipe.validates:
                wanted.append((self.dataset, Draw("validation", recipe.validation_form, "validation", name)))
        tested = Draw(self.evaluate.split, self.test_form, "evaluation", name)
        return wanted + [(target, tested) for target in self.targets]

    @property
    def n_classes(self) -> int | None:
        """Classes of the training split that a classifier distinguishes, as given or known; None if neither."""
        given = self.learner.settings.get("n_classes")
        part = DATASETS.get(self.dataset.name)  # an export may name any data set
        splits = None if part is None else part.splits
        if given is not None or splits is None:
            return given
        return sum(splits[part][0] for part in _parts_of(self.recipe.train_split))

    @property
    def context(self) -> LearnerContext:
        """What the learner must know about the experiment."""
        recipe = self.recipe
        return LearnerContext(
            n_way=recipe.n_way,
            n_classes=self.n_classes,
            image_size=self.image_size,
            steps_per_epoch=recipe.steps_per_epoch,
            label_smoothing=recipe.label_smoothing,
            precision=recipe.precision,
            compile=recipe.compile,
            joint_forward=recipe.joint_forward,
        )

    def train_settings(self) -> dict[str, Any]:
        """Return everything that determines the training, as plain values; part of the key and of every result file."""
        recipe = self.recipe.model_dump(mode="json")
        given = {} if self.weights is None else {"weights": path_digest(self.weights)}
        return {
            **given,
            **({} if self.init is None else {"init": _without_seed(self.init.train_settings())}),
            "dataset": self.dataset.name,
            "backbone": self.backbone.as_json(),
            "learner": self.learner.as_json(),
            "recipe": {**recipe, "image_size": self.image_size},
            "seed": self.seed,
        }

    def evaluate_settings(self, target: Choice) -> dict[str, Any]:
        """Return everything but the trained model that determines the evaluation on `target`, as plain values."""
        protocol = self.evaluate.model_dump(mode="json", exclude={"targets", "shots", "variants"})
        changes = self.changes.model_dump(mode="json", exclude_defaults=True)
        return {
            **protocol,
            "target": target.label,
            "shots": list(self.shots),
            **({"changes": changes} if changes else {}),
        }


def _without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training from which another one with the same seed starts."""
    return {name: value for name, value in settings.items() if name != "seed"}


@dataclass(frozen=True)
class _Family:
    """A family of components.

    Attributes:
        kind: singular noun for messages.
        section: section of `params.yaml` with named settings.
        registry: the registered components by name.
    """

    kind: str
    section: str
    registry: Mapping[str, Part]

    def choose(self, params: Params, label: str, where: str, overrides: Mapping[str, Any] | None = None) -> Choice:
        """Resolve a registered name, or an entry of the section with `base:`, to its complete settings.

        Args:
            params: the whole file.
            label: name as given.
            where: dotted path of the key that gives it, for messages.
            overrides: settings that replace those of the entry.

        Raises:
            ParamsError: if the name or its base is unknown, or a setting is unknown or out of range.
        """
        entries: Mapping[str, dict[str, Any]] = getattr(params, self.section)
        place = f"{self.section}.{label}"
        if label not in self.registry and label not in entries:
            with locate_errors(where):
                find_part(self.kind, label, {**entries, **self.registry})
        entry = dict(entries.get(label, {}))
        part = self._base(label, entry.pop("base", label), f"{place}.base")
        try:
            settings = parse_as(
                self.registry[part].settings,
                {**entry, **(overrides or {})},
                where=f"{where}.{self.kind}" if overrides else place,
            )
        except ParamsError:
            if overrides:
                self.choose(params, label, where)  # a mistake in the entry itself is reported there, once
            raise
        return Choice(label, part, settings.model_dump(mode="json"))

    def _base(self, label: str, base: Any, where: str) -> str:
        """Check the registered name that an entry is based on."""
        if not isinstance(base, str):
            raise ParamsError(f"{where}: {quoted(base)} is not allowed: give the name of a {self.kind}")
        if label in self.registry and base != label:
            raise ParamsError(f"{where}: {quoted(label)} is itself a registered {self.kind}; choose another name")
        with locate_errors(where):
            find_part(self.kind, base, self.registry)
        return base


_DATASET = _Family("data set", "prepare", DATASETS)
_BACKBONE = _Family("backbone", "backbones", BACKBONES)
_LEARNER = _Family("learner", "learners", LEARNERS)


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
            _check_given_weights(matrix, where)
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
            _recipe(params, name, {}, f"recipes.{name}")
    for family in (_DATASET, _BACKBONE, _LEARNER):
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
    given = {key: getattr(matrix, key) for key in ("dataset", "backbone", "learner", "recipe", "seed")}
    problems = Problems()
    for key, value in (matrix.model_extra or {}).items():
        with problems.collected():
            _check_override(key, value, where)
            given[key] = value
    axes = {key: list(value) if isinstance(value, (list, tuple)) else [value] for key, value in given.items()}
    for key, values in axes.items():
        if not values:
            problems.add(f"{where}.{key}: the list is empty; give at least one value")
        for first, second in itertools.combinations(values, 2):
            if _is_number(first) and _is_number(second) and first == second and type(first) is not type(second):
                problems.add(f"{where}.{key}: {first} and {second} are the same value; remove one")
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
    named = ("dataset", "backbone", "learner", "recipe", "seed")
    overrides = {key: value for key, value in row.items() if key not in named}
    replaced = ("shots", "targets", "episodes", "variants")
    given = {key: getattr(matrix, key) for key in replaced if getattr(matrix, key) is not None}
    protocol = {**params.evaluate.model_dump(mode="json"), **given, **_overrides_of(overrides, "evaluate")}
    problems = Problems()
    with problems.collected():
        dataset = _DATASET.choose(params, row["dataset"], where)
    with problems.collected():
        backbone = _BACKBONE.choose(params, row["backbone"], where, _overrides_of(overrides, "backbone"))
    with problems.collected():
        learner = _LEARNER.choose(params, row["learner"], where, _overrides_of(overrides, "learner"))
    with problems.collected():
        recipe = _recipe(params, row["recipe"], _recipe_overrides(overrides), where)
    with problems.collected():
        evaluate = parse_as(Evaluate, protocol, where=f"{where}.evaluate")
        targets = tuple(_DATASET.choose(params, name, f"{where}.targets") for name in evaluate.targets or ())
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
    _check_name(experiment, where)
    _check_start(experiment, where)
    _check_parts(experiment, where)
    _check_fits(experiment, where)
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
        if key in _TESTED_ONLY or key.startswith("evaluate."):
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


_TESTED_ONLY = ("shots", "targets", "episodes", "variants", "weights")


def _check_start(experiment: Experiment, where: str) -> None:
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
        targets=tuple(_DATASET.choose(params, name, "evaluate.targets") for name in evaluate.targets or targets),
    )
    _check_parts(plain, "evaluate")
    _check_fits(plain, "evaluate")
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
    _check_name(experiment, where)
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


def _check_name(experiment: Experiment, where: str) -> None:
    """Reject a name too long for a file."""
    if len(experiment.name) > MAX_NAME:
        raise ParamsError(
            f"{where}: the name {quoted(experiment.name)} has {len(experiment.name)} characters; at most {MAX_NAME} "
            "fit in a file name: use a recipe instead of overrides"
        )


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
        _recipe(params, row["recipe"], {}, where),
        _BACKBONE.choose(params, row["backbone"], where),
        _LEARNER.choose(params, row["learner"], where),
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


def _check_given_weights(matrix: Matrix, where: str) -> None:
    """Raise `ParamsError` unless the weights file that a matrix names exists."""
    if matrix.weights is not None and not os.path.isfile(matrix.weights):
        raise ParamsError(
            f"{where}.weights: {quoted(matrix.weights)} is not a file; give the path of a weights file, relative to "
            "the project folder"
        )


def _recipe(params: Params, name: str, overrides: dict[str, Any], where: str) -> Recipe:
    """Resolve a recipe through its bases and apply a suite's overrides."""
    values: dict[str, Any] = {}
    chain: list[str] = []
    following: str | None = name
    while following is not None:
        with locate_errors(f"recipes.{chain[-1]}.base" if chain else where):
            entry = find_part("recipe", following, params.recipes)
        if following in chain:
            raise ParamsError(f"recipes.{name}.base: the bases form a cycle: {' -> '.join([*chain, following])}")
        chain.append(following)
        if len(chain) > MAX_BASE_HOPS + 1:
            raise ParamsError(f"recipes.{name}: more than {MAX_BASE_HOPS} bases in a chain: {' -> '.join(chain)}")
        values = _merged({key: value for key, value in entry.items() if key != "base"}, values)
        following = entry.get("base")
        if following is not None and not isinstance(following, str):
            raise ParamsError(
                f"recipes.{chain[-1]}.base: {quoted(following)} is not allowed: give the name of a recipe"
            )
    for key, value in overrides.items():
        section, _, nested = key.partition(".")
        values = _merged(values, {section: {nested: value}} if nested else {key: value})
    try:
        return parse_as(Recipe, values, where=where if overrides else f"recipes.{name}")
    except ParamsError:
        # A mistake in the recipe itself or in its base is reported there, once.
        for inner in (chain if overrides else chain[1:])[:1]:
            _recipe(params, inner, {}, where)
        raise


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `base` with changes; sections such as `validation` are merged key by key."""
    merged = {**base, **changes}
    for key in base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            merged[key] = {**base[key], **changes[key]}
    return merged


def _recipe_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides of recipe fields, such as `n_shot` or `validation.n_shot`."""
    return {key: value for key, value in overrides.items() if key.partition(".")[0] not in OTHER_SECTIONS}


def stored_image_size(dataset: Choice) -> int:
    """Return the side of a data set's stored images, pixels."""
    return DATASETS[dataset.name].image_size or int(dataset.settings["image_size"])


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


def _check_parts(experiment: Experiment, where: str) -> None:
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


def _parts_of(split: str) -> tuple[str, ...]:
    """Return the stored splits that a split is the union of."""
    return ("train", "validation") if split == "trainval" else (split,)


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


def _check_fits(experiment: Experiment, where: str) -> None:
    """Reject episodes too large for a data set, as far as its size is known before preparation."""
    for dataset, draw in experiment.draws():
        split, form, use, section = draw.split, draw.form, draw.use, draw.section
        splits = DATASETS[dataset.name].splits
        if splits is None:
            continue
        parts = _parts_of(split)
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
