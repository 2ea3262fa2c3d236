import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def draw_features():
    """Two families of features: clusters with full-rank noise (few active bounds), low rank (many)."""

    def draw(n_problems, n_way, per_class, n_features=200, kind="low rank", rank=20, noise=0.05, seed=0):
        generator = np.random.default_rng(seed)
        features, labels = [], []
        for _ in range(n_problems):
            label = generator.permutation(np.arange(n_way * per_class) % n_way)
            if kind == "low rank":
                latent = generator.standard_normal((n_way, rank))[label] + generator.standard_normal((len(label), rank))
                values = latent @ generator.standard_normal((rank, n_features)) / np.sqrt(rank)
                values += noise * generator.standard_normal(values.shape)
            else:
                centres = 0.5 * generator.standard_normal((n_way, n_features)) + 0.5 * generator.standard_normal(
                    n_features
                )
                values = centres[label] + 0.9 * generator.standard_normal((len(label), n_features))
            features.append(np.maximum(values, 0) if kind != "signed clusters" else values)
            labels.append(label)
        return torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(labels))

    return draw
