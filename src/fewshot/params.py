"""The types of `params.yaml`: each setting with default, range, meaning and source. The only reader of that file."""

import json
import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from fewshot.errors import ParamsError
from fewshot.registry import Settings, nearest

PARAMS_FILE = Path("params.yaml")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=60)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Shots = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]

# Pixel statistics on the 0..255 scale: (mean, standard deviation) a channel.
NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "none": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    # MetaOptNet's loaders (their miniImageNet statistics serve tieredImageNet, those of CIFAR-FS serve FC100)
    "imagenet": ((120.39586422, 115.59361427, 104.54012653), (70.68188272, 68.27635443, 72.54505529)),
    "cifar": ((129.37731888, 124.10583864, 112.47758569), (68.20947949, 65.43124043, 70.45866994)),
    # torchvision's ImageNet statistics, used by MAML++ and ALFA
    "torchvision": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


class Augmentation(Settings):
    """Random changes of training images, in this order (specification: MetaOptNet's loaders)."""

    crop_padding: int = Field(0, ge=0, le=64, description="random crop of the image padded with this many black pixels")
    jitter: float = Field(0.0, ge=0, lt=1, description="brightness, contrast and saturation factors in [1-j, 1+j]")
    flip: bool = Field(False, description="mirror left and right with probability 1/2")


class Validation(Settings):
    """How the best epoch is chosen: accuracy over the same episodes of the validation classes after each epoch."""

    episodes: int = Field(200, ge=0, le=10**6, description="episodes; 0 keeps the last state instead of the best")
    n_shot: PositiveInt = Field(5, description="support images a class")
    n_query: PositiveInt = Field(15, description="query images a class")


class Recipe(Settings):
    """Settings of a training run, apart from data set, backbone, learner and seed."""

    n_way: int = Field(5, ge=2, le=1000, description="classes an episode")
    n_shot: PositiveInt = Field(5, description="support images a class")
    n_query: PositiveInt = Field(6, description="query images a class")
    meta_batch: PositiveInt = Field(8, description="episodes an outer step")
    epochs: int = Field(60, ge=0, le=10**6, description="epochs; 0 leaves the network untrained")
    steps_per_epoch: PositiveInt = Field(1000, description="outer steps an epoch")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="outer optimiser")
    learning_rate: float = Field(0.1, gt=0, le=100, description="outer learning rate at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    nesterov: bool = Field(True, description="Nesterov momentum of SGD")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="on every parameter, as MetaOptNet does")
    schedule: Literal["cosine"] | tuple[tuple[int, float], ...] = Field(
        (), description="pairs [epoch, multiplier]: from that epoch (0-based) on, learning_rate * multiplier; or cosine"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="epsilon of the training loss")
    image_size: Annotated[int, Field(ge=8, le=512)] | None = Field(
        None, description="side in pixels; other sizes are resized (PIL bicubic); null: the data set's own"
    )
    normalization: Literal["none", "imagenet", "cifar", "torchvision"] = Field("cifar", description="pixel statistics")
    augmentation: Augmentation = Field(Augmentation(), description="random changes of training images")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: autocast of the backbone")
    joint_forward: bool = Field(False, description="embed support and query in one call (one batch-norm statistic)")
    episodes_per_backward: PositiveInt | None = Field(
        None, description="episodes differentiated at once; fewer need less memory; null: the learner's own choice"
    )
    validation: Validation = Field(Validation(), description="how the best epoch is chosen")
    keep_checkpoints: int = Field(1, ge=1, le=100, description="best epochs kept; above 1 they form an ensemble")
    train_split: Literal["train", "trainval"] = Field("train", description="classes to train on")

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ValueError("nesterov: true needs momentum above 0")
        if isinstance(self.schedule, tuple):
            epochs = [epoch for epoch, _ in self.schedule]
            if epochs != sorted(set(epochs)) or any(epoch < 0 or factor < 0 for epoch, factor in self.schedule):
                raise ValueError("schedule: epochs must be 0 or more and increase, multipliers 0 or more")
        if self.train_split == "trainval" and self.validation.episodes and self.epochs:
            raise ValueError("train_split: trainval leaves no validation classes; set validation: {episodes: 0}")
        if self.keep_checkpoints > 1 and not self.validation.episodes:
            raise ValueError("keep_checkpoints above 1 needs validation episodes to rank the epochs")
        return self


class Evaluate(Settings):
    """The test protocol: frozen episodes, the same for every learner."""

    n_way: int = Field(5, ge=2, le=1000, description="classes an episode")
    n_query: PositiveInt = Field(15, description="query images a class")
    episodes: int = Field(1000, ge=2, le=10**6, description="test episodes a shot")
    shots: Literal["train_shot"] | Shots = Field(
        (1, 5), description="support images a class; train_shot: the shot of training"
    )
    seed: Seed = Field(0, description="of the frozen episode lists")
    split: Literal["train", "validation", "test"] = Field("test", description="which classes are tested")
    targets: tuple[str, ...] | None = Field(
        None, description="data sets to test on; null: the one trained on; several: cross-domain"
    )


class Train(Settings):
    """How training jobs run; nothing here is meant to change a result, all of it is recorded in run.json."""

    threads: int = Field(1, ge=1, le=1024, description="CPU threads a job")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one")
    jobs_per_gpu: int = Field(1, ge=1, le=64, description="jobs that share one GPU")
    checkpoint_seconds: float = Field(120.0, ge=0, le=86400, description="at most this much work is lost by a kill")


class Report(Settings):
    """What is drawn and compared; enters no training or evaluation key."""

    sheets: bool = Field(True, description="draw a sheet of test episodes with right and wrong answers per learner")


class Matrix(BaseModel):
    """One block of a suite: lists are multiplied, single values hold for all.

    Beside the named fields any field of `Recipe` and `learner.<setting>`, `backbone.<setting>` may be given.
    """

    model_config = {"extra": "allow", "frozen": True, "strict": True}

    dataset: Name | tuple[Name, ...] = Field(description="data sets to train on")
    backbone: Name | tuple[Name, ...] = Field("conv4", description="entries of `backbones` or registered names")
    learner: Name | tuple[Name, ...] = Field(description="entries of `learners` or registered names")
    recipe: Name | tuple[Name, ...] = Field(description="entries of `recipes`")
    seed: Seed | tuple[Seed, ...] = Field(0, description="training seeds")
    shots: Literal["train_shot"] | Shots | None = Field(None, description="instead of evaluate.shots")
    targets: tuple[Name, ...] | None = Field(None, description="instead of evaluate.targets")
    episodes: Annotated[int, Field(ge=2, le=10**6)] | None = Field(None, description="instead of evaluate.episodes")


class Params(Settings):
    """The whole file."""

    suite: Name = Field(description="which suite `snakemake`, `dvc repro` and `make run` run")
    suites: dict[Name, tuple[Matrix, ...]] = Field(description="named sets of experiments")
    recipes: dict[Name, dict[str, Any]] = Field(description="named training settings; `base:` names another recipe")
    learners: dict[Name, dict[str, Any]] = Field({}, description="settings that differ from a learner's defaults")
    backbones: dict[Name, dict[str, Any]] = Field({}, description="settings that differ from a backbone's defaults")
    prepare: dict[Name, dict[str, Any]] = Field({}, description="per data set: path or mirrors, checksums, options")
    train: Train = Field(Train(), description="how training jobs run")
    evaluate: Evaluate = Field(Evaluate(), description="the test protocol")
    report: Report = Field(Report(), description="what is drawn and compared")


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are those of YAML 1.2 (`1e-3` is a number, `no` stays text) and whose keys are unique."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            where = f"line {key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise ParamsError(f"{where}: the key {key!r} is not text; write it in quotes")
            if key in seen and key != "<<":
                raise ParamsError(f"{where}: the key {key!r} stands twice in one section; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _yaml_1_2(loader: type[yaml.SafeLoader]) -> None:
    """Give the loader YAML 1.2's booleans, integers and floats instead of 1.1's."""
    dropped = ("bool", "int", "float", "timestamp")
    loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in rules if tag.rpartition(":")[2] not in dropped]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern, first in (
        ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
        ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
        ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
        ("float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+."),
    ):
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(pattern), list(first))


_yaml_1_2(_Loader)

MAX_FILE_BYTES = 4 * 2**20


def read_params(path: Path = PARAMS_FILE, overrides: dict[str, Any] | None = None) -> Params:
    """Read, check and type a parameter file.

    Args:
        path: the YAML file.
        overrides: top-level keys to replace, as given to ``snakemake --config``.

    Raises:
        ParamsError: with every problem found, each naming the key, the value, what is allowed and the nearest spelling.
    """
    return check(Params, {**read_yaml(path), **(overrides or {})}, where="", source=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of plain values.

    Raises:
        ParamsError: if it cannot be read, is not YAML, or holds anything but text keys and finite plain values.
    """
    try:
        text = path.read_bytes()
        if len(text) > MAX_FILE_BYTES:
            raise ParamsError(f"{path}: {len(text)} bytes; more than {MAX_FILE_BYTES} cannot be a parameter file")
        values = yaml.load(text.decode("utf-8"), _Loader)
        _check_plain(values, ())
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}; run from the project's folder") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {_yaml_problem(error)}") from None
    except RecursionError:
        raise ParamsError(f"{path}: nested too deeply, or an anchor contains itself") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: must hold sections ({', '.join(Params.model_fields)}), not {_shown(values)}")
    return values


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _check_plain(value: Any, where: tuple[str, ...]) -> int:
    """Refuse non-finite numbers and text that no YAML file should hold; returns the number of values."""
    if isinstance(value, dict):
        size = sum(_check_plain(item, (*where, key)) for key, item in value.items())
    elif isinstance(value, list):
        size = sum(_check_plain(item, (*where, str(i))) for i, item in enumerate(value))
    else:
        if isinstance(value, float) and not math.isfinite(value):
            raise ParamsError(f"{'.'.join(where)}: {value} is not a finite number")
        size = 1
    if size > 1_000_000:
        raise ParamsError(f"{'.'.join(where) or 'file'}: more than a million values; are anchors multiplied?")
    return size


ModelType = TypeVar("ModelType", bound=BaseModel)


def check(model: type[ModelType], values: Any, *, where: str, source: str = str(PARAMS_FILE)) -> ModelType:
    """Give values their type.

    Args:
        model: the type.
        values: plain values (dicts, lists, numbers, text).
        where: dotted place of the values in the file, for messages; "" for the whole file.
        source: name of the file, for messages.

    Raises:
        ParamsError: naming each wrong key, its value and what is allowed.
    """
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = _merged([_explain(model, detail, where) for detail in error.errors(include_url=False)])
        raise ParamsError("\n".join(f"{source}: {line}" for line in lines)) from None


def _explain(model: type[BaseModel], detail: ErrorDetails, where: str) -> tuple[str, str]:
    """Return (dotted place, what is wrong) of one problem."""
    # Union members add parts such as 'tuple[constrained-str, ...]' to the place; keys never look like that.
    parts = [str(part) for part in detail["loc"] if re.fullmatch(r"[A-Za-z0-9_.]+", str(part)) and part not in _TAGS]
    place = ".".join([*([where] if where else []), *parts])
    if detail["type"] == "extra_forbidden":
        key, allowed = parts[-1], _fields_at(model, parts[:-1])
        return place, f"unknown key {key!r}; allowed here: {', '.join(allowed)}.{nearest(key, allowed)}"
    if detail["type"] == "missing":
        return place, f"the key {parts[-1]!r} is missing; add it"
    found = "" if isinstance(detail["input"], dict) else f"{_shown(detail['input'])} is not allowed: "
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return place, found + message


_TAGS = {"str", "int", "float", "bool", "constrained"}


def _fields_at(model: type[BaseModel], parts: list[str]) -> list[str]:
    """Return the field names of the section that `parts` leads to."""
    for part in parts:
        field = model.model_fields.get(part)
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return list(model.model_fields)


def _merged(problems: list[tuple[str, str]]) -> list[str]:
    """Join what several members of a union say of one value."""
    by_place: dict[str, list[str]] = {}
    for place, text in problems:
        by_place.setdefault(place, []).append(text)
    return [
        f"{place}: {texts[0]}" + "".join(f"; or {text.partition(' is not allowed: ')[2] or text}" for text in texts[1:])
        for place, texts in by_place.items()
    ]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def schema_text() -> str:
    """Return the JSON schema of `params.yaml`, generated from the types above."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **Params.model_json_schema()}, indent=2, ensure_ascii=False) + "\n"
