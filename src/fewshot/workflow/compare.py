"""The paired difference of two experiments on the episodes that both were tested on: `fewshot compare`.

Reads finished evaluations, in `results/` or `cache/`; nothing is computed or restored. Does not import torch.
"""

from dataclasses import replace

from fewshot.errors import DataError, ParamsError, did_you_mean, quoted
from fewshot.report.compare import compare_family
from fewshot.report.inputs import ReportEntry
from fewshot.report.measure import Row, group_rows, read_runs
from fewshot.workflow.listing import aligned
from fewshot.workflow.plan import Plan, plans_of_file
from fewshot.workflow.planned_jobs import EvaluateJob
from fewshot.workflow.results import intact_result
from fewshot.workflow.suite_report import report_entry

HEADER = ("target", "way", "shot", "selection", "A", "B", "A - B", "p", "A is")


def compare_experiments(plan: Plan, first: str, second: str) -> str:
    """Return a table of the differences first - second, a line per target, shot and selection.

    Args:
        plan: of the suite that is searched first; the others of its file follow.
        first: name of an experiment, or of an experiment without its seed: all its seeds in the suite.
        second: likewise.

    Raises:
        ParamsError: if an experiment is unknown.
        DataError: if one is not evaluated yet, or they have no test episodes in common.
    """
    ours, theirs = experiment_rows(plan, first), experiment_rows(plan, second)
    pairs = [(a, b) for a in ours for b in theirs if _tested_on(a) == _tested_on(b)]
    if not pairs:
        raise DataError(
            f"{first} and {second} have no test episodes in common ({_tests(ours)}; {_tests(theirs)}); "
            "'fewshot test' tests a finished training with other shots, ways and targets"
        )
    intervals = " or ".join(dict.fromkeys("episodes and seeds" if _seeds(pair) > 2 else "episodes" for pair in pairs))
    return "\n".join(
        [
            f"A  {first} ({_counted(ours)})",
            f"B  {second} ({_counted(theirs)})",
            "",
            *aligned([HEADER, *(_line(a, b) for a, b in pairs)]),
            "",
            *_seen_classes(pairs),
            f"Accuracy in %, ± half width of the 95 % interval over {intervals}; differences are paired on the same",
            "episodes. p: probability of at least this difference if there is none, for each line on its own.",
        ]
    )


def experiment_rows(plan: Plan, name: str) -> list[Row]:
    """Return the numbers of an experiment, or of all its seeds; see `compare_experiments`."""
    known: list[str] = []
    for searched in plans_of_file(plan):
        jobs = [job for job in searched.evaluate if name in (job.name, job.experiment.group)]
        if jobs:
            return group_rows(run for job in jobs for run in read_runs(_finished_entry(searched, job)))
        known += [job.name for job in searched.evaluate]
    raise ParamsError(
        f"no suite has an experiment {quoted(name)}.{did_you_mean(name, known)} 'fewshot list' lists those of a suite"
    )


def _finished_entry(plan: Plan, job: EvaluateJob) -> ReportEntry:
    """Return the entry of an evaluation, with the paths of an unchanged copy of its files."""
    entry, folder = report_entry(plan, job, {}), intact_result(job)
    if folder is None:
        raise DataError(f"{job.name} is not evaluated on {job.target} yet; run: {entry.command}")
    return replace(entry, evaluation=folder / entry.evaluation.name)


def _tested_on(row: Row) -> tuple[str, int, int, str, str]:
    """Return what the rows of a pair must share."""
    _, target, way, shot, episodes = row.family
    return target, way, shot, row.selection, episodes


def _line(ours: Row, theirs: Row) -> tuple[str, ...]:
    """Return a line of the table."""
    difference = compare_family([ours, theirs]).difference(0, 1)
    estimate, p = difference.estimate, difference.p_value
    return (
        ours.entry.target,
        str(ours.protocol["n_way"]),
        str(ours.shot),
        ours.selection,
        *(f"{100 * row.estimate.mean:.2f} ± {100 * row.estimate.ci95:.2f}" for row in (ours, theirs)),
        f"{100 * estimate.mean:+.2f} ± {100 * estimate.ci95:.2f}",
        "< 0.0001" if p < 1e-4 else f"{p:.4f}",
        difference.word,
    )


def _seen_classes(pairs: list[tuple[Row, Row]]) -> list[str]:
    """Return a line per side and target where tested classes are training classes."""
    sides = [(side, row.entry) for pair in pairs for side, row in zip("AB", pair, strict=True)]
    return list(dict.fromkeys(f"{side} on {entry.target}: {entry.seen}." for side, entry in sides if entry.seen))


def _seeds(rows: tuple[Row, Row]) -> int:
    return sum(len(row.runs) for row in rows)


def _counted(rows: list[Row]) -> str:
    seeds = [run.entry.seed for run in rows[0].runs]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _tests(rows: list[Row]) -> str:
    """Return 'glyphs 5-way 1-shot, glyphs 5-way 5-shot'."""
    return ", ".join(f"{row.entry.target} {row.protocol['n_way']}-way {row.shot}-shot" for row in rows)
