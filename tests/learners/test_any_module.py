"""Learners on any module: what is adapted, which statistics normalise, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fewshot.backbones import BACKBONES, Conv4MAML
from fewshot.backbones.base import embedding_size
from fewshot.errors import ParamsError
from fewshot.heads import build_head
from fewshot.learners import (
    ADAPTIVE_LEARNERS,
    ALFA,
    ANIL,
    BOIL,
    FOMAML,
    LEARNERS,
    MAML,
    CxGrad,
    EpisodicLearner,
    LearnerContext,
    MAMLPlusPlus,
    build_learner,
)
from fewshot.learners.inner_loop import adapt_detached, split_tasks

CONTEXT = LearnerContext(n_way=3, image_size=16)
PLAIN = {"inner_steps": 2, "inner_learning_rate": 0.1}
ON_ANY_MODULE = [
    (MAML, {}),
    (FOMAML, {}),
    (ANIL, {}),
    (BOIL, {}),
    (MAMLPlusPlus, {"per_step_batch_norm": False}),
    (ALFA, {}),
]


BODY = ["backbone.0.weight", "backbone.0.bias", "backbone.3.weight", "backbone.3.bias"]
HEAD = ["head.weight", "head.bias"]


def plain_backbone():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten()]
    return nn.Sequential(*layers).double()


def conv4_maml(**settings):
    torch.manual_seed(0)
    return Conv4MAML(16, 4, running_statistics=False, **settings)


@pytest.mark.parametrize(("learner_type", "settings"), ON_ANY_MODULE)
def test_any_module_is_trained_and_evaluated(learner_type, settings, random_batch):
    learner = learner_type(plain_backbone(), CONTEXT, **PLAIN, **settings).double()
    batch = random_batch(n_episodes=2)

    learner.loss(batch, 0).loss.backward()

    assert all(parameter.grad is not None for parameter in learner.network.parameters())
    assert learner.eval().logits(batch).shape == (2, 12, 3)
    diagnosed = learner.diagnose(batch)
    assert diagnosed["gradient_norm"].shape == (2, 2, 2)
    assert np.isclose(diagnosed["feature_similarity"], 1).all() == (learner_type is ANIL)


@pytest.mark.parametrize(("learner_type", "adapted"), [(MAML, [*BODY, *HEAD]), (ANIL, HEAD), (BOIL, BODY)])
def test_all_weights_but_those_of_batch_norm_are_adapted(learner_type, adapted, random_batch):
    learner = learner_type(plain_backbone(), CONTEXT, **PLAIN).double()
    task = learner.prepare(next(split_tasks(random_batch())))

    step = list(adapt_detached(learner, task, 2))[-1]

    assert list(step.updated) == adapted
    assert not any(torch.equal(step.updated[name], learner.network.get_parameter(name)) for name in adapted)


def test_weights_that_require_no_gradient_are_not_adapted(random_batch):
    backbone = plain_backbone()
    backbone[0].requires_grad_(False)
    learner = MAML(backbone, CONTEXT, **PLAIN).double()

    learner.loss(random_batch(), 0).loss.backward()

    assert not [name for name in learner.adapted if name.startswith("backbone.0.")]


def test_batch_statistics_normalise_in_evaluation_too(random_batch):
    learner, batch = MAML(plain_backbone(), CONTEXT, **PLAIN).double(), random_batch()

    trained, evaluated = learner.train().logits(batch), learner.eval().logits(batch)

    torch.testing.assert_close(trained, evaluated, rtol=0, atol=0)
    assert not list(learner.buffers())


def test_outer_gradient_of_a_plain_module_is_that_of_finite_differences(random_batch):
    learner, batch = MAML(plain_backbone(), CONTEXT, **PLAIN).double(), random_batch()
    weight = learner.network.backbone[3].weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    learner.loss(batch, 0).loss.backward()
    losses = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            weight.add_(step * direction)
        losses.append(learner.loss(batch, 0).loss.item())

    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx((weight.grad * direction).sum().item(), rel=1e-5)


def test_direct_construction_equals_the_registered_learner(random_batch):
    batch = random_batch(dtype=torch.float32)
    direct = MAML(conv4_maml(), CONTEXT, **PLAIN)
    torch.manual_seed(0)
    named = build_learner("maml", backbone="conv4_maml", backbone_settings={"filters": 4}, context=CONTEXT, **PLAIN)

    assert torch.equal(direct.logits(batch), named.logits(batch))


def test_mamlpp_takes_a_backbone_with_weights_for_each_step(random_batch):
    learner = MAMLPlusPlus(conv4_maml(batch_norm_steps=2), CONTEXT, inner_steps=2)

    assert learner.loss(random_batch(dtype=torch.float32), 0).loss.isfinite()


@pytest.mark.parametrize(
    ("learner_type", "backbone", "settings", "words"),
    [
        (
            MAML,
            plain_backbone(),
            {"batch_norm": "support"},
            "batch_norm 'support' needs the backbone Conv4MAML, not Seq",
        ),
        (MAML, plain_backbone(), {"batch_norm": "per_query"}, "batch_norm 'per_query' needs the backbone Conv4MAML"),
        (MAML, plain_backbone(), {"checkpoint_inner_steps": True}, "checkpoint_inner_steps needs the backbone"),
        (MAML, plain_backbone(), {"query_precision": "bfloat16"}, "query_precision 'bfloat16' needs the backbone"),
        (MAML, conv4_maml(), {"query_precision": "float16"}, "query_precision: 'float16' is not allowed"),
        (MAMLPlusPlus, plain_backbone(), {}, "per_step_batch_norm needs the backbone Conv4MAML"),
        (MAMLPlusPlus, conv4_maml(), {}, r"Conv4MAML\(..., batch_norm_steps=5\)"),
        (MAML, conv4_maml(batch_norm_steps=5), {}, r"Conv4MAML\(..., batch_norm_steps=None\)"),
        (MAML, conv4_maml(pooling="stride"), {"batch_norm": "per_query"}, "2 or more pixels"),
        (CxGrad, plain_backbone(), {}, "CxGrad .* needs the backbone Conv4MAML, not Sequential"),
        (CxGrad, conv4_maml(bias=True), {}, "bias: false"),
        (MAML, plain_backbone(), {"inner_step": 3}, "unknown key 'inner_step'; allowed: .* Did you mean 'inner_steps'"),
        (FOMAML, plain_backbone(), {"second_order": True}, "second_order: true is not allowed: it should be false"),
        (ANIL, plain_backbone(), {"checkpoint_inner_steps": True}, "checkpoint_inner_steps: true is not allowed"),
    ],
)
def test_what_does_not_fit_is_refused(learner_type, backbone, settings, words):
    with pytest.raises(ParamsError, match=words):
        learner_type(backbone, CONTEXT, **settings)


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"label_smoothing": 0.1}, {"joint_forward": True}])
def test_contexts_of_episodic_learners_are_refused(change):
    with pytest.raises(ParamsError, match=next(iter(change))):
        MAML(plain_backbone(), LearnerContext(n_way=3, image_size=16, **change))


def test_episodic_learner_finds_the_embedding_size(random_batch):
    backbone = plain_backbone()
    learner = EpisodicLearner(backbone, build_head("ridge").double(), CONTEXT)
    before = backbone[1].running_mean.clone()

    assert learner.embedding_size == 5 * 5 * 5
    assert learner.training
    assert torch.equal(backbone[1].running_mean, before)
    assert learner.loss(random_batch(), 0).loss.isfinite()


def test_attribute_takes_precedence():
    backbone = plain_backbone()
    backbone.embedding_size = 7

    assert embedding_size(backbone, 16) == 7


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (nn.Conv2d(1, 4, 3), "does not embed images .* image_size"),
        (nn.Conv2d(3, 4, 3), r"shape \(2, 4, 14, 14\), not \(N, d\)"),
    ],
)
def test_a_module_that_gives_no_embedding_is_refused(backbone, words):
    with pytest.raises(ParamsError, match=words):
        embedding_size(backbone, 16)


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_class_and_registry_name_the_same_settings(name):
    assert ADAPTIVE_LEARNERS[name].load().settings_type is ADAPTIVE_LEARNERS[name].settings


def test_every_class_of_the_registries_is_exported():
    from fewshot import backbones, learners

    for package, registry in ((learners, LEARNERS), (backbones, BACKBONES)):
        for part in registry.values():
            assert getattr(package, part.target.partition(":")[2]) is part.load()


def test_registries_are_read_without_torch():
    code = "import sys; import fewshot.learners, fewshot.backbones; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class TwoNames(nn.Module):
    """A layer that is two attributes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = self.first

    def forward(self, images):
        return self.second(self.first(images)).flatten(1)


class Pair(nn.Module):
    """A module that returns two results."""

    def forward(self, images):
        return images.flatten(1), images


@pytest.mark.parametrize(
    ("learner_type", "backbone", "words"),
    [
        (MAML, TwoNames(), "layer has two names, 'first' and 'second'"),
        (MAML, Pair(), "returns a tuple, not a tensor"),
        (BOIL, nn.Flatten(), "BOIL has nothing to adapt: Flatten has no weights"),
        (BOIL, plain_backbone().requires_grad_(False), "BOIL has nothing to adapt: .* frozen"),
    ],
)
def test_a_backbone_that_cannot_be_adapted_is_refused(learner_type, backbone, words):
    with pytest.raises(ParamsError, match=words):
        learner_type(backbone, CONTEXT)


@pytest.mark.parametrize(
    "build", [lambda b: EpisodicLearner(b, build_head("ridge"), CONTEXT), lambda b: MAML(b, CONTEXT)]
)
def test_what_is_no_module_is_refused(build):
    with pytest.raises(TypeError, match=r"backbone is .*; allowed: a torch module"):
        build(nn.Flatten)


def test_episodic_learner_refuses_what_is_no_embedding(random_batch):
    with pytest.raises(ParamsError, match="returns a tuple, not a tensor"):
        EpisodicLearner(Pair(), build_head("ridge"), CONTEXT).logits(random_batch())


def test_lazy_layers_get_their_weights(random_batch):
    backbone = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(6))
    learner = EpisodicLearner(backbone, build_head("ridge"), CONTEXT)

    assert learner.embedding_size == 6
    assert learner.loss(random_batch(dtype=torch.float32), 0).loss.isfinite()


@pytest.mark.parametrize(("learner_type", "settings"), ON_ANY_MODULE)
def test_a_float64_backbone_needs_no_conversion_of_the_learner(learner_type, settings, random_batch):
    learner = learner_type(plain_backbone(), CONTEXT, **PLAIN, **settings)

    assert learner.network.head.weight.dtype == torch.float64
    assert learner.loss(random_batch(), 0).loss.dtype == torch.float64
