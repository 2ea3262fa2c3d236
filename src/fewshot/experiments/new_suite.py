"""`fewshot new`: a commented suite in a file of its own, which starts as one existing experiment."""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fewshot.backbones import BACKBONES
from fewshot.errors import ParamsError, did_you_mean, quoted
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.matrix import RECIPE_SECTIONS, experiment_blocks
from fewshot.experiments.params import NAME_PATTERN, OF_EPISODES, Matrix, Params
from fewshot.experiments.reader import ParamsFiles
from fewshot.files import write_atomic
from fewshot.learners import LEARNERS

FOLDER = Path("experiments")
COMMENT_COLUMN = 40
QUOTED_WORD = re.compile(r'"(?!(?:true|false|null)")([a-z_][a-z0-9_]*)"')


def write_suite(files: ParamsFiles, name: str, like: str) -> Path:
    """Write `experiments/<name>.yaml`: a suite of one block that gives an existing experiment, and what it can change.

    Args:
        files: the parameter files.
        name: of the suite and of the file.
        like: name of an experiment of any suite.

    Returns:
        The file.

    Raises:
        ParamsError: if there is no such experiment, the name is taken or not allowed, or `include` leaves the file out.
    """
    params, file = files.parsed(), files.path.parent / FOLDER / f"{name}.yaml"
    if not re.fullmatch(NAME_PATTERN, name):
        raise ParamsError(f"{quoted(name)} is not allowed: the name of a suite consists of a-z, 0-9 and _")
    if name in params.suites or file.exists():
        place = file if file.exists() else files.file_of(f"suites.{name}")
        raise ParamsError(f"{place}: there is a suite or file {quoted(name)} already; choose another name")
    _check_included(files, file)
    block, experiment = _block_like(params, like)
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, suite_text(name, like, block, experiment).encode())
    return file


def _check_included(files: ParamsFiles, file: Path) -> None:
    """Refuse to write a file that would not be read."""
    given = files.values.get("include", ())
    patterns = [given] if isinstance(given, str) else given
    if not any(fnmatch((FOLDER / file.name).as_posix(), pattern) for pattern in patterns):
        raise ParamsError(f"{files.path}: {file} would not be read; add the line: include: {FOLDER}/*.yaml")


def _block_like(params: Params, name: str) -> tuple[dict[str, Any], Experiment]:
    """Return an experiment, with the keys of a block that gives it; the default suite is searched first."""
    known: dict[str, None] = {}
    for suite in dict.fromkeys([params.suite, *params.suites]):
        for block, experiment in experiment_blocks(params, suite):
            if experiment.name == name:
                return block, experiment
            known[experiment.name] = None
    raise ParamsError(
        f"no suite has an experiment {quoted(name)}.{did_you_mean(name, known)} 'fewshot list' lists them"
    )


def suite_text(name: str, like: str, block: dict[str, Any], experiment: Experiment) -> str:
    """Return the text of the file: the block, and as comments every setting that it can change.

    Args:
        name: of the suite.
        like: name of the experiment.
        block: the keys of the block.
        experiment: the resolved experiment, whose values the comments show.
    """
    described = {key: text for key, _, text in _settings_of(experiment)}
    set_here = [_line(key, value, described.get(key, "")) for key, value in block.items()]
    others = [f"# {_line(key, value, text)}" for key, value, text in _settings_of(experiment) if key not in block]
    return "\n".join(
        [
            f"# A copy of {like}: change a value, or give a list to get an experiment per value.",
            f"# fewshot list --suite {name}                             the experiments",
            f"# snakemake --cores all --config suite={name}             runs them",
            "suites:",
            f"  {name}:",
            f"    {experiment.learner.label}:",
            *(f"      {line}" for line in set_here),
            "      # Settings that a block can change, with the values they have now:",
            *(f"      {line}" for line in others),
            "",
        ]
    )


def _line(key: str, value: Any, text: str) -> str:
    """Return 'key: value    # text', with names as plain words."""
    setting = f"{key}: " + QUOTED_WORD.sub(r"\1", json.dumps(value))
    return f"{setting.ljust(COMMENT_COLUMN)} # {text}" if text else setting


def _settings_of(experiment: Experiment) -> Iterator[tuple[str, Any, str]]:
    """Yield (key in a block, value now, meaning) of every setting of an experiment that a block can change."""
    recipe, evaluate, texts = experiment.recipe, experiment.evaluate, Matrix.model_fields
    block = {
        **dict.fromkeys(("dataset", "backbone", "learner", "recipe")),  # every block gives them
        "seed": experiment.seed,
        "shots": evaluate.shots,
        "episodes": evaluate.episodes,
        "variants": evaluate.variants,
        "targets": [target.label for target in experiment.targets],
        "init": None,
        "weights": None if experiment.weights is None else str(experiment.weights),
    }
    yield from ((key, value, texts[key].description or "") for key, value in block.items())
    unused = OF_EPISODES if recipe.batch_size else ()
    yield from (line for line in _plain_fields(recipe, "") if line[0] not in unused)
    for section in RECIPE_SECTIONS:
        yield from _plain_fields(getattr(recipe, section), f"{section}.")
    yield from _plain_fields(LEARNERS[experiment.learner.name].typed(experiment.learner.settings), "learner.")
    yield from _plain_fields(BACKBONES[experiment.backbone.name].typed(experiment.backbone.settings), "backbone.")


def _plain_fields(settings: BaseModel, prefix: str) -> Iterator[tuple[str, Any, str]]:
    """Yield the fields of typed settings that have plain values; a block cannot give lists and sections."""
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        if value is None or isinstance(value, (bool, int, float, str)):
            yield f"{prefix}{key}", value, field.description or ""
