"""Means and intervals of accuracies: over episodes, over training seeds, over both, and of paired differences.

Accuracies are 0..1. Shapes: S training seeds, E episodes. All seeds and all learners of a comparison are tested on the
same frozen episodes, so an array (S, E) is a crossed design: accuracy = mean + seed effect + episode effect + residual.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from fewshot.evaluation.interval import CONFIDENCE, standard_errors, t_quantile

LOG10_SMALLEST_P = -100.0  # scipy's quantiles of t are wrong from about 1e-250 on (-inf for 3 to 8 degrees of freedom)


@dataclass(frozen=True)
class ErrorPart:
    """One independent source of error of an estimate.

    Attributes:
        std_error: standard deviation it contributes; nan if unknown.
        dof: degrees of freedom of `std_error`; inf if it is taken as known.
    """

    std_error: float
    dof: float

    def half_width(self, confidence: float) -> float:
        """Return the half width of the two-sided t interval of this part alone."""
        return t_quantile(confidence, self.dof) * self.std_error


@dataclass(frozen=True)
class Estimate:
    """A mean and its error.

    Attributes:
        mean: the estimate.
        parts: independent sources of error. Their half widths add in quadrature. Adding variances first and pooling the
            degrees of freedom (Welch-Satterthwaite) covers 88 % when two or three seeds are combined with hundreds of
            episodes; this rule covers 93-97 % (tests/report/test_stats.py).
    """

    mean: float
    parts: tuple[ErrorPart, ...]

    @property
    def negated(self) -> "Estimate":
        """The estimate of the opposite difference."""
        return Estimate(-self.mean, self.parts)

    @property
    def ci95(self) -> float:
        """Half width of the 95 % interval."""
        return self.half_width(CONFIDENCE)

    def half_width(self, confidence: float) -> float:
        """Return the half width of the two-sided interval; nan if a part of the error is unknown."""
        return math.hypot(*(part.half_width(confidence) for part in self.parts))

    @property
    def p_value(self) -> float:
        """Two-sided p value of "the mean is zero": 1 - the confidence at which the interval just reaches zero."""
        parts = [part for part in self.parts if part.std_error != 0]
        if not parts:
            return 1.0 if self.mean == 0 else 0.0
        if len(parts) == 1:
            (part,) = parts
            return float(2 * stats.t.sf(abs(self.mean) / part.std_error, part.dof))
        return _p_at_half_width(abs(self.mean), parts)


def _p_at_half_width(width: float, parts: Sequence[ErrorPart]) -> float:
    """Return p such that the interval of confidence 1 - p has this half width; at least 1e-100."""

    def excess(log_p: float) -> float:
        tail = 10.0**log_p / 2
        return math.hypot(*(special.stdtrit(part.dof, tail) * part.std_error for part in parts)) - width

    if width == 0:
        return 1.0
    if excess(LOG10_SMALLEST_P) < 0:
        return 10.0**LOG10_SMALLEST_P
    return float(10.0 ** optimize.brentq(excess, LOG10_SMALLEST_P, 0.0))


def sample_estimate(values: np.ndarray) -> Estimate:
    """Return the mean of independent values, (n,), with its standard error s / sqrt(n), s with divisor n - 1."""
    count = len(values)
    if count < 2:
        return Estimate(float(np.mean(values)), (ErrorPart(math.nan, math.nan),))
    return Estimate(float(np.mean(values)), (ErrorPart(standard_errors(values), count - 1),))


def over_episodes(accuracies: np.ndarray) -> Estimate:
    """Estimate the accuracy of *these* trained models on new episodes.

    Args:
        accuracies: (S, E); averaged over seeds first.
    """
    return sample_estimate(np.atleast_2d(accuracies).mean(axis=0))


def over_seeds(accuracies: np.ndarray) -> Estimate:
    """Estimate the accuracy of a newly trained model on *these* episodes.

    Args:
        accuracies: (S, E); the error is nan for one seed.
    """
    return sample_estimate(np.atleast_2d(accuracies).mean(axis=1))


def over_both(accuracies: np.ndarray) -> Estimate:
    """Estimate the accuracy of a newly trained model on new episodes.

    Two sources of error: the episodes, (deviation over episodes of the mean over seeds) / sqrt(E), and the seeds, see
    `seed_part`. With one seed only the first is known, and this equals `over_episodes`.

    Args:
        accuracies: (S, E).
    """
    accuracies = np.atleast_2d(accuracies)
    episodes = over_episodes(accuracies)
    return Estimate(episodes.mean, episodes.parts + seed_part(accuracies))


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """Estimate the mean of ours - theirs on the same episodes.

    Pairing removes the difficulty of the episodes, most of the variance. If a side has several seeds, its seed part is
    added, so that the result is about the learners; with one seed each, it is about two trained models.

    Args:
        ours: (S, E) or (E,).
        theirs: (S', E) or (E,), on the same episodes in the same order.

    Raises:
        ValueError: if the numbers of episodes differ.
    """
    ours, theirs = np.atleast_2d(ours), np.atleast_2d(theirs)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"not paired: {ours.shape[1]} and {theirs.shape[1]} episodes")
    episodes = sample_estimate(ours.mean(axis=0) - theirs.mean(axis=0))
    return Estimate(episodes.mean, episodes.parts + seed_part(ours) + seed_part(theirs))


def difference_of_same_trainings(ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """Estimate the mean of ours - theirs, each model tested twice on the same episodes, as variants of a test are.

    What makes one training better than another is in both, so that only the deviation of the difference between
    trainings remains. It may be small beside the noise of the episodes: subtracting the noise, as `seed_part` does,
    covers as little as 87-92 % with two or three seeds then. Keeping it covers 95 % and more.

    Args:
        ours: (S, E) or (E,).
        theirs: likewise, of the same trainings in the same order.

    Raises:
        ValueError: if the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"not of the same trainings and episodes: shapes {ours.shape} and {theirs.shape}")
    differences = np.atleast_2d(ours - theirs)
    episodes = over_episodes(differences)
    return Estimate(episodes.mean, episodes.parts + (over_seeds(differences).parts if len(differences) > 1 else ()))


def seed_part(accuracies: np.ndarray) -> tuple[ErrorPart, ...]:
    """Return the error of the mean of (S, E) that is due to the training seeds; () for one seed.

    Two-way analysis of variance without replication: variance = (seed mean square - residual mean square) / (S E), at
    least 0, with S - 1 degrees of freedom.
    """
    n_seeds, n_episodes = accuracies.shape
    if n_seeds < 2 or n_episodes < 2:
        return ()
    seed_means = accuracies.mean(axis=1)
    residual = accuracies - seed_means[:, None] - accuracies.mean(axis=0) + accuracies.mean()
    noise = float((residual**2).sum()) / ((n_seeds - 1) * (n_episodes - 1)) / n_episodes
    variance = max(float(seed_means.var(ddof=1)) - noise, 0.0)
    return (ErrorPart(math.sqrt(variance / n_seeds), n_seeds - 1),)


def run_deviation(accuracies: np.ndarray) -> ErrorPart | None:
    """Return the deviation between single training runs, estimated from (S, E); None for one seed."""
    accuracies = np.atleast_2d(accuracies)
    return next((ErrorPart(p.std_error * math.sqrt(len(accuracies)), p.dof) for p in seed_part(accuracies)), None)


def pooled(deviations: Sequence[ErrorPart]) -> ErrorPart:
    """Return one estimate of a standard deviation from independent ones, weighted by their degrees of freedom."""
    dof = sum(part.dof for part in deviations)
    return ErrorPart(math.sqrt(sum(part.dof * part.std_error**2 for part in deviations) / dof), dof)


def deviation_of_seed_means(accuracies: np.ndarray) -> ErrorPart | None:
    """Return the deviation between single training runs on *these* episodes, from (S, E); None for one seed.

    Unlike `run_deviation`, it keeps the part due to how a run fares on single episodes, by which the mean of a new run
    on the same episodes deviates too. That of `run_deviation` is zero where this part happens to explain it all.
    """
    means = np.atleast_2d(accuracies).mean(axis=1)
    return ErrorPart(float(means.std(ddof=1)), len(means) - 1) if len(means) > 1 else None


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p values corrected for multiple comparisons (Holm 1979), controlling the family-wise error rate.

    Args:
        p_values: (n,), in any order.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def metaoptnet_interval(accuracies: np.ndarray, n_predictions: int) -> float:
    """Return the half width of MetaOptNet's test script: divisor n in the deviation, n + 1 under the root."""
    return float(1.96 * np.std(accuracies) / np.sqrt(len(accuracies) + 1))


def predictions_interval(accuracies: np.ndarray, n_predictions: int) -> float:
    """Return the half width of MAML++, ALFA and CxGrad: binomial over single predictions, ignoring their correlation.

    Args:
        accuracies: (E,).
        n_predictions: E times the query images per episode.
    """
    mean = float(np.mean(accuracies))
    return float(1.96 * np.sqrt(mean * (1 - mean) / n_predictions))


def normal_interval(accuracies: np.ndarray, n_predictions: int) -> float:
    """Return the half width 1.96 s / sqrt(n), s with divisor n - 1, the most common one in the field."""
    return float(1.96 * np.std(accuracies, ddof=1) / np.sqrt(len(accuracies)))


ORIGINAL_INTERVALS: dict[str, Callable[[np.ndarray, int], float]] = {
    "metaoptnet": metaoptnet_interval,
    "predictions": predictions_interval,
    "normal": normal_interval,
}
