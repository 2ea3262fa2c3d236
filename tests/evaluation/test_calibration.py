"""Bins of confidence and the calibration error, on numbers that can be checked by hand."""

import numpy as np
import pytest

from fewshot.evaluation.calibration import BINS, calibration_bins, calibration_error


def test_predictions_are_counted_by_confidence() -> None:
    bins = calibration_bins(np.array([[0.2, 0.21], [1.0, 0.99]]), np.array([[True, False], [True, True]]))
    assert bins["count"].tolist() == [0, 0, 1, 1, *[0] * (BINS - 5), 2]
    assert bins["confidence"][[2, 3, -1]] == pytest.approx([0.2, 0.21, 1.99])
    assert bins["correct"][[2, 3, -1]].tolist() == [1, 0, 2]


def test_the_error_is_the_weighted_distance_from_the_diagonal() -> None:
    bins = calibration_bins(np.array([0.8, 0.8, 0.5, 0.5]), np.array([True, True, True, False]))
    assert calibration_error(**bins) == pytest.approx((2 * 0.2 + 2 * 0.0) / 4)


def test_probabilities_that_hold_have_no_error() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.2, 1, 200_000)
    bins = calibration_bins(confidences, rng.random(200_000) < confidences)
    assert calibration_error(**bins) < 0.01
