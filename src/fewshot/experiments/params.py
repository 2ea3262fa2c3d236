"""The types of `params.yaml`: each setting with its default, range, meaning and source."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fewshot.episodes.form import EpisodeForm
from fewshot.learners.settings import EvaluationSettings
from fewshot.settings import Settings

NAME_PATTERN = r"^[a-z0-9][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=60)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Shots = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
AS_TRAINED = "as_trained"
"""Name of the variant without changes."""

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Augmentation(Settings):
    """Random augmentation of training images, in this order (as in MetaOptNet's loaders)."""

    crop_padding: int = Field(0, ge=0, le=64, description="random crop after padding with this many black pixels")
    jitter: float = Field(0.0, ge=0, lt=1, description="brightness, contrast and saturation factors in [1-j, 1+j]")
    flip: bool = Field(False, description="horizontal flip with probability 1/2")


class Validation(Settings):
    """Model selection: accuracy on fixed episodes of the validation classes, measured after each epoch."""

    episodes: int = Field(200, ge=0, le=10**6, description="episodes; 0 keeps the last epoch instead of the best")
    n_shot: PositiveInt = Field(5, description="support images per class")
    n_query: PositiveInt = Field(15, description="query images per class")
    n_way: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        None,
        description="classes per episode; null: as in training. Fewer than in training, where the validation split has "
        "too few classes, as for ProtoNets trained with 20 or 30 ways (Snell et al., NeurIPS 2017)",
    )
    inner_gradients: int = Field(
        0,
        ge=0,
        le=1000,
        description="number of these episodes on which learners that adapt by gradient steps are measured: history.csv "
        "gets the norm of the inner gradient of each layer",
    )

    @model_validator(mode="after")
    def _check_inner_gradients(self) -> Self:
        if self.inner_gradients > self.episodes:
            raise ValueError(
                f"inner_gradients is {self.inner_gradients}, more than the {self.episodes} validation episodes"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Record later fields only where they are given: the settings of all other trainings stay as they were."""
        later = {"n_way": None, "inner_gradients": 0}
        return {name: value for name, value in values(self).items() if name not in later or value != later[name]}


OF_EPISODES = ("n_shot", "n_query", "meta_batch", "joint_forward")
"""Fields of a recipe without a meaning for minibatches of images."""


class Recipe(Settings):
    """Settings of a training run, apart from data set, backbone, learner and seed."""

    n_way: int = Field(5, ge=2, le=1000, description="classes per episode")
    n_shot: PositiveInt = Field(5, description="support images per class")
    n_query: PositiveInt = Field(6, description="query images per class")
    meta_batch: PositiveInt = Field(8, description="episodes per outer step")
    batch_size: PositiveInt | None = Field(
        None,
        exclude_if=lambda size: size is None,
        description="images per outer step of a learner trained on minibatches (classifier, baselinepp), in place of "
        "n_shot, n_query and meta_batch; null: the learner is trained on episodes",
    )
    epochs: int = Field(60, ge=0, le=10**6, description="epochs; 0 leaves the network untrained")
    steps_per_epoch: PositiveInt = Field(1000, description="outer steps per epoch")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="outer optimiser")
    learning_rate: float = Field(0.1, gt=0, le=100, description="initial outer learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    nesterov: bool = Field(True, description="Nesterov momentum of SGD")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="applied to every parameter, as in MetaOptNet")
    schedule: Literal["cosine", "one_cycle"] | tuple[tuple[int, float], ...] = Field(
        (),
        description="{epochs: [...], multipliers: [...]} or pairs [epoch, multiplier]: learning_rate * multiplier from "
        "that epoch (0-based) on; or cosine; or one_cycle: up to learning_rate in the first 30 % of the steps, then "
        "down (Smith and Topin 2019)",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="epsilon of the training loss")
    image_size: Annotated[int, Field(ge=8, le=512)] | None = Field(
        None, description="side in pixels; images are resized (PIL bicubic); null: as stored"
    )
    normalization: Literal["none", "imagenet", "cifar", "torchvision"] = Field(
        "cifar", description="mean and standard deviation of pixels"
    )
    augmentation: Augmentation = Field(Augmentation(), description="random augmentation of training images")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="tf32: convolutions on GPUs round what they multiply to TensorFloat-32; bfloat16: autocast of the "
        "backbone",
    )
    compile: bool = Field(
        False,
        exclude_if=lambda compiled: not compiled,  # the settings of all other trainings stay as they were
        description="on GPUs, compile the backbone's training pass (torch.compile): faster, other rounding",
    )
    joint_forward: bool = Field(False, description="embed support and query in one call (one batch-norm statistic)")
    episodes_per_backward: PositiveInt | None = Field(
        None, description="episodes per backward pass; fewer need less memory; null: chosen by the learner"
    )
    devices: int = Field(
        1, ge=1, le=64, description="processes that share the episodes of a meta-batch; batch norm is then per device"
    )
    validation: Validation = Field(Validation(), description="selection of the best epoch")
    keep_checkpoints: int = Field(1, ge=1, le=100, description="best epochs to keep; more than 1 form an ensemble")
    average_checkpoints: int = Field(
        1,
        ge=1,
        le=1000,
        exclude_if=lambda epochs: epochs == 1,
        description="the result is the mean of the weights after so many last epochs, instead of the best epoch; "
        "1: no averaging (Izmailov et al., UAI 2018)",
    )
    train_split: Literal["train", "trainval"] = Field("train", description="classes to train on")

    @property
    def items_per_step(self) -> int:
        """Episodes, or images of a minibatch, per outer step."""
        return self.batch_size or self.meta_batch

    @property
    def unit(self) -> str:
        """What an outer step consists of: episodes or images."""
        return "images" if self.batch_size else "episodes"

    @property
    def form(self) -> EpisodeForm:
        """Form of a training episode."""
        return EpisodeForm(self.n_way, self.n_shot, self.n_query)

    @property
    def validation_form(self) -> EpisodeForm:
        """Form of a validation episode."""
        return EpisodeForm(self.validation.n_way or self.n_way, self.validation.n_shot, self.validation.n_query)

    @property
    def validates(self) -> bool:
        """Whether the learner is scored on validation episodes after each epoch."""
        return bool(self.validation.episodes and self.epochs)

    @field_validator("schedule", mode="before")
    @classmethod
    def _pairs(cls, schedule: Any) -> Any:
        """Return the pairs of either notation as tuples, and `cosine` as it is."""
        if isinstance(schedule, list):
            return tuple(tuple(pair) if isinstance(pair, list) else pair for pair in schedule)
        if not isinstance(schedule, dict):
            return schedule
        epochs, multipliers = (schedule.get(key) for key in ("epochs", "multipliers"))
        if len(schedule) != 2 or not isinstance(epochs, list) or not isinstance(multipliers, list):
            raise ValueError("give two lists: {epochs: [20, 40], multipliers: [0.1, 0.01]}")
        if len(epochs) != len(multipliers):
            raise ValueError(f"epochs {epochs} and multipliers {multipliers} differ in length; give one for each epoch")
        return tuple(zip(epochs, multipliers, strict=True))

    @model_serializer(mode="wrap")
    def _without_unused_episodes(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the form of training episodes out of the record of a training on minibatches."""
        unused = OF_EPISODES if self.batch_size else ()
        return {name: value for name, value in values(self).items() if name not in unused}

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.batch_size and (given := self.model_fields_set & set(OF_EPISODES)):
            raise ValueError(
                f"batch_size: a minibatch of images has no {', '.join(sorted(given))}; choose a recipe (or a base) "
                "without them, or leave out batch_size to train on episodes"
            )
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ValueError("nesterov: true needs momentum above 0")
        if isinstance(self.schedule, tuple):
            epochs = [epoch for epoch, _ in self.schedule]
            if epochs != sorted(set(epochs)) or any(epoch < 0 or factor < 0 for epoch, factor in self.schedule):
                factors = [factor for _, factor in self.schedule]
                raise ValueError(
                    f"schedule: epochs {epochs} and multipliers {factors} are not allowed: "
                    "epochs must be 0 or more and increase, multipliers 0 or more"
                )
        if self.items_per_step % self.devices:
            size = "batch_size" if self.batch_size else "meta_batch"
            raise ValueError(
                f"devices: {self.devices} does not divide {size} {self.items_per_step}; devices take equal shares"
            )
        if self.train_split == "trainval" and self.validates:
            raise ValueError("train_split: trainval leaves no validation classes; set validation: {episodes: 0}")
        if self.average_checkpoints > max(self.epochs, 1):
            raise ValueError(
                f"average_checkpoints: {self.average_checkpoints} is more than epochs {self.epochs}; lower it"
            )
        if self.average_checkpoints > 1 and self.keep_checkpoints > 1:
            raise ValueError("average_checkpoints and keep_checkpoints exclude each other; set one of them to 1")
        if self.keep_checkpoints > 1 and not self.validation.episodes:
            raise ValueError("keep_checkpoints above 1 needs validation episodes to rank the epochs")
        return self


class Evaluate(Settings):
    """The test protocol: frozen episodes, the same for every learner."""

    n_way: int = Field(5, ge=2, le=1000, description="classes per episode")
    n_query: PositiveInt = Field(15, description="query images per class")
    episodes: int = Field(1000, ge=2, le=10**6, description="test episodes per number of shots")
    shots: Literal["train_shot"] | Shots = Field(
        (1, 5), description="support images per class; train_shot: the number of shots in training"
    )
    seed: Seed = Field(0, description="seed of the frozen episode lists")
    split: Literal["train", "validation", "test"] = Field("test", description="split to test on")
    targets: tuple[str, ...] | None = Field(
        None, description="data sets to test on (cross-domain); null: the training data set"
    )
    variants: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        (AS_TRAINED,),
        description="entries of `variants`, each a row of its own; as_trained: with the training's settings",
    )


class Train(Settings):
    """How jobs run; `threads` and `device` change the last bits of results, and so the keys."""

    threads: int = Field(1, ge=1, le=1024, description="CPU threads per job; part of the keys except with device: cuda")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU if available; part of the keys as written"
    )
    jobs_per_gpu: int = Field(1, ge=1, le=64, description="jobs that may share one GPU")
    checkpoint_seconds: float = Field(
        120.0, ge=0, le=86400, description="seconds between checkpoints; the most a kill can lose"
    )
    tensorboard: bool = Field(
        False, description="write learning curves for TensorBoard to logs/tensorboard while training"
    )


class Report(Settings):
    """What the report shows; not part of any training or evaluation key."""

    margin_pct: float = Field(
        1.5, gt=0, le=100, description="percentage points; numbers closer than this, with 90 % confidence, agree"
    )
    run_sd_pct: float = Field(
        0.7,
        ge=0,
        le=100,
        description="percentage points; standard deviation between training runs where none is known",
    )
    versus_best: bool = Field(
        False, description="results.md and results.tex get a column: difference from the best row, with its p value"
    )
    sheets: bool = Field(True, description="draw a test episode per learner with its correct and wrong predictions")


class Matrix(BaseModel):
    """One block of a suite: every combination of its lists is an experiment; single values apply to all.

    Any field of `Recipe`, and `learner.<setting>`, `backbone.<setting>` or `evaluate.<setting>`, is allowed too.
    """

    model_config = {"extra": "allow", "frozen": True, "strict": True}

    dataset: Name | tuple[Name, ...] = Field(description="data sets to train on")
    backbone: Name | tuple[Name, ...] = Field("conv4", description="entries of `backbones` or registered names")
    learner: Name | tuple[Name, ...] = Field(description="entries of `learners` or registered names")
    recipe: Name | tuple[Name, ...] = Field(description="entries of `recipes`")
    seed: Seed | tuple[Seed, ...] = Field(0, description="training seeds")
    shots: Literal["train_shot"] | Shots | None = Field(None, description="replaces evaluate.shots")
    targets: tuple[Name, ...] | None = Field(None, description="replaces evaluate.targets")
    episodes: Annotated[int, Field(ge=2, le=10**6)] | None = Field(None, description="replaces evaluate.episodes")
    variants: Annotated[tuple[Name, ...], Field(min_length=1)] | None = Field(
        None, description="replaces evaluate.variants"
    )
    init: dict[str, Any] | None = Field(
        None,
        description="a block {learner, recipe, ...} whose training this one starts from: same data set, backbone and "
        "seed; only its backbone is used",
    )
    weights: str | None = Field(
        None,
        description="file of trained weights to evaluate instead of training: an export, or from the original program",
    )


Blocks = Annotated[dict[Name, Matrix], Field(min_length=1)] | Annotated[tuple[Matrix, ...], Field(min_length=1)]


class Params(Settings):
    """The whole file, and those it includes."""

    suite: Name = Field(description="suite run by `snakemake`, `dvc repro` and `make run`")
    include: str | tuple[str, ...] = Field(
        (), description="files with more named entries: paths or patterns such as experiments/*.yaml, from this file on"
    )
    suites: dict[Name, Blocks] = Field(min_length=1, description="named sets of experiments; their blocks may be named")
    recipes: dict[Name, dict[str, Any]] = Field(
        min_length=1, description="named training settings; `base:` inherits from another recipe"
    )
    learners: dict[Name, dict[str, Any]] = Field({}, description="settings that differ from the defaults of a learner")
    backbones: dict[Name, dict[str, Any]] = Field(
        {}, description="settings that differ from the defaults of a backbone"
    )
    prepare: dict[Name, dict[str, Any]] = Field({}, description="per data set: path or mirrors, checksums, options")
    train: Train = Field(Train(), description="how jobs run")
    evaluate: Evaluate = Field(Evaluate(), description="the test protocol")
    variants: dict[Name, EvaluationSettings] = Field(
        {}, description="named settings that change only the evaluation of a trained learner"
    )
    report: Report = Field(Report(), description="what the report shows")

    def blocks(self, suite: str) -> list[tuple[str, Matrix]]:
        """Return the blocks of a suite with their dotted paths, in file order."""
        blocks = self.suites[suite]
        if isinstance(blocks, dict):
            return [(f"suites.{suite}.{name}", block) for name, block in blocks.items()]
        return [(f"suites.{suite}[{number}]", block) for number, block in enumerate(blocks)]


def schema_text() -> str:
    """Return the JSON schema of `params.yaml`, generated from the types above."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **Params.model_json_schema()}, indent=2, ensure_ascii=False) + "\n"
