"""The types of `params.yaml`: each setting with default, range, meaning and source. The only reader of that file."""

import json
import math
import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, model_validator

from fewshot.episodes.form import EpisodeForm
from fewshot.errors import ParamsError, quoted
from fewshot.settings import Settings, parse_as

PARAMS_FILE = Path("params.yaml")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=60)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Shots = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


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
    devices: int = Field(
        1, ge=1, le=64, description="processes that share a meta-batch's episodes; batch norm is then per device"
    )
    validation: Validation = Field(Validation(), description="how the best epoch is chosen")
    keep_checkpoints: int = Field(1, ge=1, le=100, description="best epochs kept; above 1 they form an ensemble")
    train_split: Literal["train", "trainval"] = Field("train", description="classes to train on")

    @property
    def form(self) -> EpisodeForm:
        """Form of a training episode."""
        return EpisodeForm(self.n_way, self.n_shot, self.n_query)

    @property
    def validation_form(self) -> EpisodeForm:
        """Form of a validation episode."""
        return EpisodeForm(self.n_way, self.validation.n_shot, self.validation.n_query)

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ValueError("nesterov: true needs momentum above 0")
        if isinstance(self.schedule, tuple):
            epochs = [epoch for epoch, _ in self.schedule]
            if epochs != sorted(set(epochs)) or any(epoch < 0 or factor < 0 for epoch, factor in self.schedule):
                raise ValueError("schedule: epochs must be 0 or more and increase, multipliers 0 or more")
        if self.meta_batch % self.devices:
            raise ValueError(
                f"devices: {self.devices} does not divide meta_batch {self.meta_batch}; every device takes as many"
            )
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
    weights: str | None = Field(
        None,
        description="file of trained weights to evaluate instead of training: an export, or the original program's",
    )


class Params(Settings):
    """The whole file."""

    suite: Name = Field(description="which suite `snakemake`, `dvc repro` and `make run` run")
    suites: dict[Name, Annotated[tuple[Matrix, ...], Field(min_length=1)]] = Field(
        description="named sets of experiments"
    )
    recipes: dict[Name, dict[str, Any]] = Field(description="named training settings; `base:` names another recipe")
    learners: dict[Name, dict[str, Any]] = Field({}, description="settings that differ from a learner's defaults")
    backbones: dict[Name, dict[str, Any]] = Field({}, description="settings that differ from a backbone's defaults")
    prepare: dict[Name, dict[str, Any]] = Field({}, description="per data set: path or mirrors, checksums, options")
    train: Train = Field(Train(), description="how training jobs run")
    evaluate: Evaluate = Field(Evaluate(), description="the test protocol")
    report: Report = Field(Report(), description="what is drawn and compared")


class _Loader(yaml.SafeLoader):
    """YAML of plain values: numbers as in YAML 1.2 (`1e-3` is a number, `no` stays text), keys are unique text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            where = f"line {key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise ParamsError(f"{where}: the key {quoted(key)} is not text; write it in quotes")
            if key in seen:
                raise ParamsError(f"{where}: the key {quoted(key)} stands twice in one section; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Read a number; the text may carry an explicit tag and be none."""
        kind, text = node.tag.rpartition(":")[2], str(node.value)
        if not any(name == kind and re.match(pattern, text) for name, pattern, _ in _YAML_1_2):
            raise yaml.constructor.ConstructorError(
                None, None, f"{quoted(text)} is not of type {kind}", node.start_mark
            )
        if len(text) > MAX_DIGITS:
            raise ParamsError(f"line {node.start_mark.line + 1}: a number of {len(text)} characters; write it shorter")
        return int(text) if kind == "int" else float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def construct_boolean(self, node: yaml.ScalarNode) -> bool:
        """Read true or false."""
        if node.value.lower() not in ("true", "false"):
            problem = f"{quoted(node.value)} is neither true nor false"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return bool(node.value.lower() == "true")

    def refuse(self, node: yaml.Node) -> None:
        """Refuse what is no plain value."""
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        problem = f"the tag {quoted(tag)} is not allowed; write plain text, numbers, lists and sections"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
MAX_DIGITS = 100

# kind, what it looks like, its possible first characters
_YAML_1_2 = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+."),
)


def _yaml_1_2(loader: type[_Loader]) -> None:
    """Give the loader YAML 1.2's booleans and numbers instead of 1.1's, and no types beyond plain values."""
    dropped = ("bool", "int", "float", "timestamp", "value")
    loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in rules if tag.removeprefix(_TAG) not in dropped]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern, first in _YAML_1_2:
        loader.add_implicit_resolver(f"{_TAG}{kind}", re.compile(pattern), list(first))
    plain = (f"{_TAG}null", f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map")
    loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in plain}
    loader.add_constructor(f"{_TAG}int", loader.construct_number)
    loader.add_constructor(f"{_TAG}float", loader.construct_number)
    loader.add_constructor(f"{_TAG}bool", loader.construct_boolean)
    loader.add_constructor(None, loader.refuse)


_yaml_1_2(_Loader)

MAX_FILE_BYTES = 2**20
MAX_VALUES = 100_000


def read_params(path: Path = PARAMS_FILE, overrides: dict[str, Any] | None = None) -> Params:
    """Read, check and type a parameter file.

    Args:
        path: the YAML file.
        overrides: top-level keys to replace, as given to ``snakemake --config``.

    Raises:
        ParamsError: with every problem found, each naming the key, the value, what is allowed and the nearest spelling.
    """
    values = read_yaml(path)
    with naming_file(path):
        return parse_as(Params, {**values, **(overrides or {})}, where="")


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Put the name of the parameter file before each line of an error."""
    try:
        yield
    except ParamsError as error:
        raise ParamsError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of plain values.

    Raises:
        ParamsError: if it cannot be read, is not YAML, or holds anything but text keys and finite plain values.
    """
    with naming_file(path):
        values = _load_yaml(_read_text(path))
        if not isinstance(values, dict):
            raise ParamsError(f"must hold sections ({', '.join(Params.model_fields)}), not {quoted(values)}")
        return values


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ParamsError(f"{size} bytes; more than {MAX_FILE_BYTES} cannot be a parameter file")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ParamsError(f"cannot be read: {error.strerror}; run from the project's folder") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"not UTF-8 text at byte {error.start}; save it as UTF-8") from None


def _load_yaml(text: str) -> Any:
    try:
        values = yaml.load(text, _Loader)
        _check_plain(values, (), {})
        return values
    except yaml.YAMLError as error:
        raise ParamsError(f"not valid YAML: {_yaml_problem(error)}") from None
    except RecursionError:
        raise ParamsError("nested too deeply, or an anchor contains itself") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_plain(value: Any, where: tuple[str, ...], sizes: dict[int, int]) -> int:
    """Refuse non-finite numbers, broken text and multiplied anchors; returns the number of values.

    Args:
        value: what was read.
        where: its place.
        sizes: of the lists and sections seen so far, by identity: anchors make one stand in many places.
    """
    if id(value) in sizes:
        return sizes[id(value)]
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        size = sum(_check_plain(item, (*where, str(key)), sizes) for key, item in items)
        sizes[id(value)] = size
    else:
        size = 1
        if isinstance(value, float) and not math.isfinite(value):
            raise ParamsError(f"{'.'.join(where)}: {value} is not a finite number")
    if any(_SURROGATE.search(text) for text in (value, *where[-1:]) if isinstance(text, str)):
        raise ParamsError(f"{'.'.join(where)}: {quoted(value)} holds half a character (a surrogate); write it as UTF-8")
    if size > MAX_VALUES:
        raise ParamsError(f"{'.'.join(where) or 'the file'}: more than {MAX_VALUES} values; are anchors multiplied?")
    return size


def schema_text() -> str:
    """Return the JSON schema of `params.yaml`, generated from the types above."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **Params.model_json_schema()}, indent=2, ensure_ascii=False) + "\n"
