"""Which rows of a suite can get a verdict, and why the others cannot: known from the plan, before anything runs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fewshot.experiments.experiment import Experiment
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Params
from fewshot.report.inputs import ReportEntry
from fewshot.report.matching import UNKNOWN_TRAINING, UNREAD, Departure, closest
from fewshot.report.measure import Row, Run
from fewshot.report.published import expected_numbers, published_numbers

NONE_PUBLISHED = "none published"


@dataclass(frozen=True)
class Coverage:
    """The rows of one suite.

    Attributes:
        suite: its name.
        rows: number of rows in its tables.
        published: rows comparable with a number read in its source.
        quoted: rows comparable with a number that another text quotes.
        expected: rows comparable with an expected number of this project.
        others: why the other rows cannot get a verdict -> number of rows.
    """

    suite: str
    rows: int
    published: int
    quoted: int
    expected: int
    others: Mapping[str, int]

    @property
    def comparable(self) -> int:
        """Rows that can get a verdict."""
        return self.published + self.quoted + self.expected


def suite_coverage(suite: str, experiments: Iterable[Experiment]) -> Coverage:
    """Return which rows of a suite can get a verdict; the seeds of an experiment share its rows."""
    numbers = (*published_numbers(), *expected_numbers())
    groups = {experiment.group: experiment for experiment in experiments}
    found = [closest(row, numbers) for experiment in groups.values() for row in planned_rows(experiment)]
    comparable = [match.number for match in found if match.number is not None and not match.departures]
    others: Counter[str] = Counter()
    for match in found:
        if match.number is None:
            others[NONE_PUBLISHED] += 1
        elif match.departures:
            others[_main_reason(match.departures)] += 1
    expected = sum(number.settings_hash is not None for number in comparable)
    quoted = sum(bool(number.quoted) for number in comparable)
    return Coverage(
        suite, len(found), len(comparable) - expected - quoted, quoted, expected, dict(others.most_common())
    )


def _main_reason(departures: Sequence[Departure]) -> str:
    """Return the reason that no setting of ours could remove, else the first."""
    kinds = [departure.kind for departure in departures]
    return next((kind for kind in (UNKNOWN_TRAINING, UNREAD) if kind in kinds), kinds[0])


def planned_rows(experiment: Experiment) -> Iterator[Row]:
    """Yield the rows that an experiment will have, without accuracies."""
    recipe = experiment.recipe
    has_ensemble = recipe.keep_checkpoints > 1 and recipe.epochs > 0 and experiment.weights is None
    protocol = {
        "train": experiment.train_settings(),
        "n_way": experiment.evaluate.n_way,
        "split": experiment.evaluate.split,
        "batch_norm": experiment.changes.batch_norm or experiment.learner.settings.get("batch_norm", "running"),
        "changes": experiment.changes.model_dump(mode="json", exclude_defaults=True),
    }
    for target in experiment.targets:
        entry = ReportEntry.of(experiment, target)
        for shot in experiment.shots:
            for selection in ("single", "ensemble") if has_ensemble else ("single",):
                yield Row((Run(entry, protocol, shot, selection, np.empty(0), 0, None, ""),))


def coverage_table(params: Params, suites: Iterable[str] | None = None) -> str:
    """Return a Markdown table with a line per suite, by default of every suite of `params.yaml`."""
    named = params.suites if suites is None else suites
    coverages = [suite_coverage(name, suite_experiments(params, name)) for name in named]
    lines = ["| suite | rows | with a verdict | the other rows |", "| --- | ---: | --- | --- |"]
    return "\n".join([*lines, *map(_line, coverages)])


def _line(coverage: Coverage) -> str:
    parts = {
        "from the source": coverage.published,
        "quoted": coverage.quoted,
        "expected": coverage.expected,
    }
    kinds = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    verdicts = f"{coverage.comparable} ({kinds})" if kinds else "0"
    others = "; ".join(f"{count} {reason}" for reason, count in coverage.others.items())
    return f"| `{coverage.suite}` | {coverage.rows} | {verdicts} | {others} |"
