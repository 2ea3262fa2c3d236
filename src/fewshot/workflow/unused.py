"""Settings without effect: changed ones that no experiment of a suite uses, and schedules longer than the training."""

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewshot.errors import ParamsError
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Params
from fewshot.experiments.plain_yaml import parse_yaml
from fewshot.experiments.reader import NAMED, ParamsFiles
from fewshot.learners import ADAPTIVE_LEARNERS
from fewshot.workflow.plan import Plan

SECTIONS = tuple(section for section in NAMED if section != "suites")


def unused_changes(plan: Plan, files: ParamsFiles) -> list[str]:
    """Return a sentence per entry that was changed since the last commit and that no experiment of the suite uses.

    Args:
        plan: of the suite.
        files: the parameter files it was made from. Those that git does not track count as unchanged.
    """
    trained, tested = [job.experiment for job in plan.train], [job.experiment for job in plan.evaluate]
    used = _used_entries(plan.params, trained + tested)
    unused = [entry for entry in _changed_entries(files) if entry not in used]
    used_by = _entries_by_suite(plan.params) if unused else {}
    return [
        f"no experiment of suite {plan.suite} uses {entry}, which has changed since the last commit"
        + next((f"; {suite} does: --config suite={suite}" for suite in used_by if entry in used_by[suite]), "")
        for entry in unused
    ]


def unreached_epochs(plan: Plan) -> list[str]:
    """Return a sentence per recipe of a suite whose own schedule names epochs that its training does not reach.

    A schedule inherited by a shorter recipe is no mistake: several published trainings are the start of a longer one.
    """
    found = {}
    for experiment in (training for job in plan.train for training in job.experiment.trainings):
        name, recipe = experiment.recipe_name, experiment.recipe
        if "schedule" in plan.params.recipes[name] and isinstance(recipe.schedule, tuple):
            found[name, recipe.epochs] = [epoch for epoch, _ in recipe.schedule if epoch >= recipe.epochs]
    return [
        f"recipes.{name}.schedule: the training of {epochs} epochs never reaches epoch {', '.join(map(str, late))} "
        "(they count from 0); lower it or raise epochs"
        for (name, epochs), late in found.items()
        if late and epochs
    ]


def unmeasured_gradients(plan: Plan) -> list[str]:
    """Return a sentence per recipe and learner of a suite without the inner gradients that the recipe is to measure."""
    trainings = (training for job in plan.train for training in job.experiment.trainings)
    found = {
        (training.recipe_name, training.learner.label): None
        for training in trainings
        if training.recipe.validation.inner_gradients and training.learner.name not in ADAPTIVE_LEARNERS
    }
    return [
        f"recipes.{recipe}: validation.inner_gradients measures nothing in learner {learner}, which does not adapt by "
        "gradient steps"
        for recipe, learner in found
    ]


def _used_entries(params: Params, experiments: list[Experiment]) -> set[str]:
    """Return the entries, such as `learners.ridge`, that experiments are made of."""
    used = set()
    for experiment in experiments:
        used |= {f"learners.{experiment.learner.label}", f"backbones.{experiment.backbone.label}"}
        used |= {f"prepare.{dataset.label}" for dataset in (experiment.dataset, *experiment.targets)}
        used |= {f"variants.{experiment.test_variant}"}
        recipe: str | None = experiment.recipe_name
        while recipe is not None:
            used.add(f"recipes.{recipe}")
            recipe = params.recipes[recipe].get("base")
    return used


def _entries_by_suite(params: Params) -> dict[str, set[str]]:
    """Return the entries that each suite uses."""
    used = {}
    for suite in params.suites:
        with suppress(ParamsError):  # a file that it names may not exist yet
            used[suite] = _used_entries(params, suite_experiments(params, suite))
    return used


def _changed_entries(files: ParamsFiles) -> list[str]:
    """Return the entries whose settings differ from those of the last commit, in the order of the files."""
    changed = []
    for file in (files.path, *files.included):
        committed = _committed(file)
        if committed is None:
            continue
        for section in SECTIONS:
            entries = files.values.get(section) or {}
            before = committed.get(section) or {}
            here = [name for name in entries if files.file_of(f"{section}.{name}") == file]
            changed += [f"{section}.{name}" for name in here if before.get(name) != entries[name]]
    return changed


def _committed(file: Path) -> dict[str, Any] | None:
    """Return the values of a file in the last commit; None without such a file, commit or git, or if not YAML."""
    command = ["git", "show", f"HEAD:./{file.name}"]
    try:
        done = subprocess.run(command, cwd=file.parent, capture_output=True, encoding="utf-8", check=True)
        values = parse_yaml(done.stdout)
    except (OSError, subprocess.CalledProcessError, UnicodeDecodeError, ParamsError):
        return None
    return values if isinstance(values, dict) else None
