"""Calibration: how often predictions of each confidence are correct (Guo et al., ICML 2017)."""

import numpy as np

BINS = 15  # of equal width, as in the paper


def calibration_bins(confidences: np.ndarray, correct: np.ndarray) -> dict[str, np.ndarray]:
    """Count predictions by confidence.

    Args:
        confidences: probability of the predicted class, 0..1, any shape.
        correct: whether the prediction is correct, the same shape.

    Returns:
        Sums over the predictions in each bin, (15,): `count`, `confidence`, `correct`. Bin i holds confidences in
        (i / 15, (i + 1) / 15].
    """
    flat = confidences.reshape(-1).astype(np.float64)
    bins = np.clip(np.ceil(flat * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return {
        "count": np.bincount(bins, minlength=BINS),
        "confidence": np.bincount(bins, weights=flat, minlength=BINS),
        "correct": np.bincount(bins, weights=correct.reshape(-1), minlength=BINS).astype(np.int64),
    }


def calibration_error(count: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the expected calibration error of the sums of `calibration_bins`, 0..1 (Guo et al., equation 3)."""
    return float(np.abs(correct - confidence).sum() / count.sum())
