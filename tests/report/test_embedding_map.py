"""The projection to the plane, against scikit-learn's principal components."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from fewshot.evaluation.embedding_map import MAPPED_CLASSES, MAPPED_IMAGES, embedding_map, mapped_rows


def test_points_are_the_first_two_principal_components() -> None:
    embeddings = np.random.default_rng(0).normal(size=(60, 12)) * np.linspace(3, 1, 12)
    labels = np.repeat(np.arange(5), 12)
    found = embedding_map(embeddings, labels)
    reference = PCA(2).fit(embeddings)
    expected = reference.transform(embeddings)
    assert np.abs(found["embedding_map/points"]) == pytest.approx(np.abs(expected), abs=1e-5)
    assert found["embedding_map/explained"] == pytest.approx(reference.explained_variance_ratio_)
    assert (found["embedding_map/labels"] == labels).all()


def test_the_sign_is_fixed() -> None:
    embeddings = np.random.default_rng(1).normal(size=(30, 4))
    first, mirrored = (embedding_map(sign * embeddings, np.zeros(30))["embedding_map/points"] for sign in (1, -1))
    for points in (first, mirrored):
        assert (points[np.abs(points).argmax(axis=0), [0, 1]] > 0).all()


def test_a_single_feature_gives_a_line() -> None:
    points = embedding_map(np.arange(5.0)[:, None], np.arange(5))["embedding_map/points"]
    assert (points[:, 1] == 0).all()


def test_rows_are_the_first_images_of_the_first_classes() -> None:
    sizes = np.array([50, 3, *[60] * 10])
    rows, labels = mapped_rows(np.cumsum(sizes) - sizes, sizes)
    assert len(set(labels)) == MAPPED_CLASSES
    assert (rows[:MAPPED_IMAGES] == np.arange(MAPPED_IMAGES)).all()
    assert list(rows[labels == 1]) == [50, 51, 52]
