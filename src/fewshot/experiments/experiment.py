"""An experiment: one training and its evaluations, with every name resolved to typed settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fewshot.datasets import DATASETS
from fewshot.datasets.seen_classes import SeenClasses, seen_classes
from fewshot.digests import path_digest
from fewshot.episodes.form import EpisodeForm
from fewshot.experiments.params import AS_TRAINED, Evaluate, Recipe
from fewshot.learners.context import LearnerContext
from fewshot.learners.settings import EvaluationSettings

NO_CHANGES = EvaluationSettings()


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
        return sum(splits[part][0] for part in parts_of(self.recipe.train_split))

    def seen_classes(self, target: Choice) -> SeenClasses:
        """Return which tested classes of a target it, or a training it starts from, is trained on.

        Weights from elsewhere count as trained on the training classes of its data set.
        """
        trained = {
            part
            for training in self.trainings
            if training.recipe.epochs or training.weights is not None
            for part in parts_of(training.recipe.train_split)
        }
        return seen_classes(self.dataset.name, trained, target.name, self.evaluate.split)

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


def stored_image_size(dataset: Choice) -> int:
    """Return the side of a data set's stored images, pixels."""
    return DATASETS[dataset.name].image_size or int(dataset.settings["image_size"])


def parts_of(split: str) -> tuple[str, ...]:
    """Return the stored splits that a split is the union of."""
    return ("train", "validation") if split == "trainval" else (split,)
