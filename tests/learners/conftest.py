"""Small learners and episodes in float64 shared by the tests of gradient-based learners."""

import pytest
import torch

from fewshot.backbones import conv4_maml
from fewshot.episodes.batch import EpisodeBatch
from fewshot.learners import build_learner, maml
from fewshot.learners.base import LearnerContext

N_WAY, IMAGE_SIZE = 3, 16


@pytest.fixture
def small_learner():
    """Return a function that builds a learner by name, with random batch-norm weights, identical for the same name."""

    def build(name, filters=4, image_size=IMAGE_SIZE, backbone_settings=None, **settings):
        torch.manual_seed(0)
        learner = build_learner(
            name,
            backbone="conv4_maml",
            backbone_settings={"filters": filters, **(backbone_settings or {})},
            context=LearnerContext(n_way=N_WAY, image_size=image_size, steps_per_epoch=10),
            **{"inner_steps": 2, "inner_learning_rate": 0.1, **settings},
        ).double()
        with torch.no_grad():
            for parameter_name, parameter in learner.named_parameters():
                if "norm" in parameter_name:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return learner

    return build


@pytest.fixture
def random_batch():
    """Return a function that draws a batch of episodes of noise images."""

    def draw(n_episodes=1, n_shot=2, n_query=4, n_way=N_WAY, image_size=IMAGE_SIZE, dtype=torch.float64, seed=1):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(n_way)

        def images(per_class):
            shape = (n_episodes, n_way * per_class, 3, image_size, image_size)
            return torch.randn(shape, generator=generator, dtype=dtype)

        return EpisodeBatch(
            images(n_shot),
            labels.repeat_interleave(n_shot).expand(n_episodes, -1),
            images(n_query),
            labels.repeat_interleave(n_query).expand(n_episodes, -1),
            torch.arange(n_episodes) + 100,
            n_way,
        )

    return draw


@pytest.fixture
def outer_gradients():
    """Return a function that computes the gradients of a learner's outer loss, by parameter name."""

    def gradients(learner, batch, step=0):
        learner.zero_grad()
        learner.loss(batch, step).loss.backward()
        return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}

    return gradients


@pytest.fixture
def as_on(monkeypatch):
    """Return a function that makes learners compute as on another device, "cpu" or "accelerator", in CPU memory."""

    def compute_as_on(device):
        for module in (conv4_maml, maml):
            monkeypatch.setattr(module, "is_on_cpu", lambda tensor: device == "cpu")

    return compute_as_on
