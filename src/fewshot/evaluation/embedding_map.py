"""Embeddings of some test images projected onto a plane, for a figure of how well a backbone separates the classes.

Shapes: N images, d features.
"""

import numpy as np

MAPPED_CLASSES = 7
MAPPED_IMAGES = 40


def mapped_rows(class_starts: np.ndarray, class_sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a split to show: the first images of the first classes.

    Args:
        class_starts: (classes,) first row of each class in the split's array.
        class_sizes: (classes,) images of each class.

    Returns:
        Rows (N,) and their classes (N,).
    """
    shown = np.minimum(class_sizes[:MAPPED_CLASSES], MAPPED_IMAGES)
    rows = np.concatenate([start + np.arange(count) for start, count in zip(class_starts, shown, strict=False)])
    return rows, np.repeat(np.arange(len(shown)), shown)


def embedding_map(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Project embeddings onto their first two principal components.

    Args:
        embeddings: (N, d), N at least 2.
        labels: (N,) classes.

    Returns:
        `embedding_map/points` (N, 2), `embedding_map/labels` (N,), `embedding_map/explained` (2,): the share of the
        variance along each axis. The sign of each axis is such that its coordinate of largest magnitude is positive.
    """
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(embeddings), 2))
    axes = min(2, len(values))
    points[:, :axes] = left[:, :axes] * values[:axes]
    peaks = points[np.abs(points).argmax(axis=0), [0, 1]]
    explained = np.zeros(2)
    explained[:axes] = values[:axes] ** 2 / max(float((values**2).sum()), 1e-300)
    return {
        "embedding_map/points": (points * np.where(peaks < 0, -1.0, 1.0)).astype(np.float32),
        "embedding_map/labels": labels,
        "embedding_map/explained": explained,
    }
