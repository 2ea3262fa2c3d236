"""Our number minus a published one, with its errors: over episodes, of the published number, and between runs."""

import math

import numpy as np
from scipy import stats as scipy_stats

from fewshot.evaluation.interval import CONFIDENCE
from fewshot.report import stats
from fewshot.report.expected_episodes import paired_accuracies
from fewshot.report.measure import Row
from fewshot.report.published import Published
from fewshot.report.stats import ErrorPart, Estimate

# The assumed deviation between training runs (`report.run_sd_pct`) is that of a typical setting; single settings
# deviate by 0.3 to 1.0 points. It counts as an estimate with 4 degrees of freedom, widened so that even settings with
# 1.0 points, replicated exactly, are called different in at most 5 % of suites: t(4) * 1.03 * 0.7 = 2.00 > 1.96
# (tests/report/test_verdict_errors.py).
ASSUMED_DEVIATION_DOF = 4
ASSUMED_DEVIATION_FACTOR = 1.03

_Z95 = float(scipy_stats.norm.ppf(0.5 + CONFIDENCE / 2))


def difference(row: Row, number: Published, assumed_run_sd_pct: float) -> Estimate:
    """Return ours - published, 0..1, with the errors over episodes of both and the deviation between training runs.

    An expected number with stored accuracies per episode is compared episode by episode if the episodes are the same.
    """
    run, theirs = _run_deviation(row, number, assumed_run_sd_pct), paired_accuracies(row, number)
    if theirs is not None:
        return paired_gap(row.accuracies, theirs, run, number.seeds)
    published_runs = 0.0 if number.protocol.interval == "seeds" else 1.0  # an interval over seeds covers the runs
    return Estimate(
        row.estimate.mean - number.accuracy_pct / 100,
        (
            *stats.over_episodes(row.accuracies).parts,
            _published_error(row, number),
            _scatter(run, len(row.runs), published_runs),
        ),
    )


def paired_gap(ours: np.ndarray, expected: np.ndarray, run: ErrorPart, expected_runs: int) -> Estimate:
    """Return ours - expected on the same episodes, with the error over episodes and the deviation between runs.

    Args:
        ours: (S, E), 0..1: accuracies, or differences of accuracies, of S training runs.
        expected: (E,), the mean over other training runs.
        run: deviation of single training runs.
        expected_runs: number of the other training runs.
    """
    episodes = stats.sample_estimate(ours.mean(axis=0) - expected)
    return Estimate(episodes.mean, (*episodes.parts, _scatter(run, len(ours), 1 / expected_runs)))


def _scatter(run: ErrorPart, runs: int, published_runs: float) -> ErrorPart:
    """Return the error of a difference due to the training runs.

    Args:
        run: deviation of single training runs.
        runs: number of our runs.
        published_runs: variance of the published number due to its runs, in units of that of one run.
    """
    return ErrorPart(run.std_error * math.sqrt(1 / runs + published_runs), run.dof)


def _run_deviation(row: Row, number: Published, assumed_run_sd_pct: float) -> ErrorPart:
    """Return the deviation between single training runs, from the number, our seeds and, if need be, the assumption."""
    if number.run_sd_pct is not None:
        return measured_deviation(number.run_sd_pct, number.seeds, row.accuracies)
    ours = stats.run_deviation(row.accuracies)
    assumed = ErrorPart(ASSUMED_DEVIATION_FACTOR * assumed_run_sd_pct / 100, ASSUMED_DEVIATION_DOF)
    if ours is None:
        return assumed
    # An assumption is no measurement: it does not add degrees of freedom.
    return ErrorPart(stats.pooled([assumed, ours]).std_error, max(assumed.dof, ours.dof))


def measured_deviation(run_sd_pct: float, seeds: int, ours: np.ndarray) -> ErrorPart:
    """Return a deviation measured with other seeds, pooled with that of our runs, (S, E), if there are several."""
    known, found = ErrorPart(run_sd_pct / 100, max(seeds - 1, 1)), stats.deviation_of_seed_means(ours)
    return known if found is None else stats.pooled([known, found])


def _published_error(row: Row, number: Published) -> ErrorPart:
    """Return the standard error behind a published interval.

    An interval that is missing, unconfirmed, or over single predictions is replaced by our own error over episodes,
    scaled to the source's number of episodes if that is known.
    """
    protocol = number.protocol
    if number.ci95_pct is not None and protocol.interval in ("episodes", "seeds") and protocol.interval_confirmed:
        return ErrorPart(number.ci95_pct / 100 / _Z95, math.inf)
    ours = stats.over_episodes(row.accuracies).parts[0]
    scale = math.sqrt(len(row.runs[0].accuracies) / protocol.episodes) if protocol.episodes else 1.0
    return ErrorPart(ours.std_error * scale, ours.dof)
