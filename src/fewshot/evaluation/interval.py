"""The t interval of a mean of independent values, such as the accuracies of episodes."""

import numpy as np
from scipy import special

CONFIDENCE = 0.95


def mean_ci95(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of values (n,) and the half width of its 95 % t interval, inf for a single value.

    Raises:
        ValueError: if there is no value.
    """
    values = np.asarray(values)
    n = len(values)
    if n == 0:
        raise ValueError("no values; allowed: one or more")
    half_width = standard_errors(values, t_quantile(CONFIDENCE, n - 1)) if n > 1 else np.inf
    return float(values.mean()), float(half_width)


def t_quantile(confidence: float, dof: float) -> float:
    """Return the half-width of a two-sided t interval with `dof` degrees of freedom, in standard errors."""
    return float(special.stdtrit(dof, 0.5 + confidence / 2))


def standard_errors(values: np.ndarray, count: float = 1.0) -> float:
    """Return `count` standard errors of the mean of values (n,): count * s / sqrt(n), s with divisor n - 1."""
    return float(count * values.std(ddof=1) / np.sqrt(len(values)))
