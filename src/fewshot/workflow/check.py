"""Every suite of a parameter file resolved completely (`fewshot check`); nothing is run."""

from dataclasses import dataclass
from pathlib import Path

from fewshot.errors import FewshotError, Problems
from fewshot.experiments.matrix import check_suite_name
from fewshot.experiments.params import Params
from fewshot.experiments.plain_yaml import MAX_VALUES
from fewshot.experiments.reader import read_files
from fewshot.paths import JOB_STAGES
from fewshot.settings import parse_as
from fewshot.workflow.listing import counted
from fewshot.workflow.plan import Plan, make_plan


@dataclass(frozen=True)
class CheckedFile:
    """What `check_file` found.

    Attributes:
        plans: of the suites without a mistake, in file order.
        problems: one line per mistake.
    """

    plans: tuple[Plan, ...]
    problems: tuple[str, ...]

    @property
    def table(self) -> str:
        """One line per suite: name, experiments and jobs."""
        width = max((len(plan.suite) for plan in self.plans), default=0)
        return "\n".join(f"{plan.suite.ljust(width)}  {_counts(plan)}" for plan in self.plans)


def check_file(path: Path, suite: str | None = None) -> CheckedFile:
    """Check a parameter file: every section, and every combination of every block.

    Suites are checked one by one, so that a mistake in one does not hide those in others.

    Args:
        path: the parameter file.
        suite: the only suite to resolve; None for all.

    Raises:
        ParamsError: if the file is not YAML, or has no such suite.
    """
    files, problems, plans = read_files(path), Problems(), []
    values = files.values
    suites = values["suites"] if isinstance(values.get("suites"), dict) else {}
    with problems.collected(), files.located():
        parse_as(Params, values, where="", at_most=MAX_VALUES)
    if isinstance(values.get("suite"), str):
        with problems.collected(), files.located():
            check_suite_name(values["suite"], suites)
    if suite is not None:
        check_suite_name(suite, suites, "--suite")
    for name in suites if suite is None else [suite]:
        with problems.collected(FewshotError), files.located():
            alone = parse_as(Params, {**values, "suites": {name: suites[name]}}, where="", at_most=MAX_VALUES)
            plans.append(make_plan(alone, name))
    return CheckedFile(tuple(plans), tuple(problems.lines))


def _counts(plan: Plan) -> str:
    """Return '12 experiments, 26 jobs (1 prepare, 12 train, 12 evaluate, 1 report)'."""
    stages = {stage: len(plan.jobs(stage)) for stage in JOB_STAGES} | {"report": 1}
    listed = ", ".join(f"{count} {stage}" for stage, count in stages.items())
    return f"{counted(plan.experiments, 'experiment')}, {sum(stages.values())} jobs ({listed})"
