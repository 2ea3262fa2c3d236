"""The t interval of a mean."""

import numpy as np
import pytest
from scipy import stats

from fewshot.evaluation.interval import mean_ci95, standard_errors, t_quantile


def test_interval_of_known_numbers():
    mean, ci95 = mean_ci95(np.array([0.5, 0.7, 0.6]))

    assert mean == pytest.approx(0.6)
    assert ci95 == pytest.approx(4.302652729696142 * 0.1 / np.sqrt(3))  # t quantile 0.975 with 2 degrees of freedom


def test_one_episode_has_an_infinite_interval():
    assert mean_ci95(np.array([0.5])) == (0.5, np.inf)


@pytest.mark.parametrize("dof", [1, 2, 7, 999, np.inf])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_quantile_is_that_of_the_t_distribution(confidence, dof):
    assert t_quantile(confidence, dof) == pytest.approx(stats.t.interval(confidence, dof)[1], rel=1e-12)


def test_standard_error_is_that_of_scipy():
    values = np.random.default_rng(0).uniform(size=30)

    assert standard_errors(values) == pytest.approx(stats.sem(values), rel=1e-12)
