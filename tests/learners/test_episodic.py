"""The episodic learner: reference losses, separate and joint forward passes, step, precision, memory estimate."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fewshot.episodes.batch import EpisodeBatch
from fewshot.learners import EPISODIC_LEARNERS, build_learner
from fewshot.learners.base import LearnerContext
from fewshot.learners.episodic import EpisodicLearner, smoothed_cross_entropy

FOLDER = Path(os.environ.get("FEWSHOT_ORACLE", Path(__file__).parents[1] / "references")) / "metaoptnet"
LOSS_CASES = sorted(FOLDER.glob("loss*.npz"))


def context(**changes):
    return LearnerContext(**{"n_way": 3, "image_size": 16, "steps_per_epoch": 10, **changes})


def initial_learner(name="prototype", backbone="conv4", backbone_settings=None, **changes):
    torch.manual_seed(0)
    if backbone == "conv4":
        backbone_settings = {"filters": 8, **(backbone_settings or {})}
    return build_learner(name, backbone=backbone, context=context(**changes), backbone_settings=backbone_settings)


def batch_of(n_episodes=2, n_way=3, n_shot=2, n_query=4, size=16):
    """Return float episodes whose classes differ in brightness."""
    generator = torch.Generator().manual_seed(1)

    def images(per_class):
        labels = torch.arange(n_way).repeat(per_class)
        noise = torch.randn(n_episodes, len(labels), size, size, 3, generator=generator)
        return (noise + labels[:, None, None, None]).permute(0, 1, 4, 2, 3), labels.expand(n_episodes, -1)

    return EpisodeBatch(*images(n_shot), *images(n_query), torch.arange(n_episodes), n_way)


@pytest.mark.oracle
@pytest.mark.parametrize("path", LOSS_CASES, ids=lambda path: path.stem)
def test_loss_and_gradient_equal_the_reference(path):
    with np.load(path, allow_pickle=False) as file:
        reference = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    names = [name for name in reference if name.endswith("__loss")]
    assert names
    for name in names:
        smoothing = float(name.removesuffix("__loss").removeprefix("eps"))
        logits = reference["logits"].clone().requires_grad_()

        loss = smoothed_cross_entropy(logits, reference["labels"], smoothing)
        loss.backward()

        torch.testing.assert_close(loss, reference[name].to(loss.dtype), rtol=1e-6, atol=1e-7)
        gradient = reference[name.replace("__loss", "__grad")].to(loss.dtype)
        torch.testing.assert_close(logits.grad, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.oracle
def test_reference_loss_is_found():
    assert LOSS_CASES


def test_smoothing_moves_weight_from_the_true_class_to_the_others():
    logits = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7) % 4
    targets = torch.full((7, 4), 0.3 / 3, dtype=torch.float64).scatter_(1, labels[:, None], 0.7)

    expected = nn.functional.cross_entropy(logits, targets)
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, 0.3), expected)


@pytest.mark.parametrize("name", EPISODIC_LEARNERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_loss_reaches_every_parameter(name, precision):
    learner = initial_learner(name, precision=precision)

    output = learner.loss(batch_of(), step=0)
    output.loss.backward()

    assert output.loss.dtype == torch.float32
    assert 0 <= output.accuracy <= 1
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in learner.parameters())


@pytest.mark.parametrize("name", EPISODIC_LEARNERS)
def test_classes_of_different_brightness_are_learned(name):
    learner = initial_learner(name)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.05, momentum=0.9)
    first = learner.loss(batch_of(), step=0).loss.item()
    for step in range(5):
        optimizer.zero_grad()
        learner.loss(batch_of(), step).loss.backward()
        optimizer.step()

    assert learner.loss(batch_of(), step=5).loss.item() < first


@pytest.mark.parametrize("name", EPISODIC_LEARNERS)
def test_logits_equal_embed_and_classify(name):
    learner, batch = initial_learner(name).eval(), batch_of()
    with torch.no_grad():
        support = learner.embed(batch.support_images.flatten(0, 1)).unflatten(0, (2, -1))
        query = learner.embed(batch.query_images.flatten(0, 1)).unflatten(0, (2, -1))
        expected = learner.classify(support, batch.support_labels, query, batch.n_way)

    logits = learner.logits(batch)

    assert learner.caches_embeddings
    assert logits.shape == (2, 12, 3)
    assert not logits.requires_grad
    assert support.shape[-1] == learner.embedding_size
    torch.testing.assert_close(logits, expected)


def test_support_and_query_have_separate_statistics_unless_joined():
    def updates(joint_forward):
        learner = initial_learner(joint_forward=joint_forward)
        learner.loss(batch_of(), step=0)
        return learner.backbone.encoder[0].block[1].num_batches_tracked.item()

    assert updates(joint_forward=False) == 2
    assert updates(joint_forward=True) == 1


def test_joint_forward_gives_the_same_in_evaluation():
    apart, joined = initial_learner().eval(), initial_learner(joint_forward=True).eval()

    torch.testing.assert_close(apart.logits(batch_of()), joined.logits(batch_of()))


def test_step_reaches_the_schedule_of_the_backbone():
    settings = {"dropblock_ramp_steps": 10}
    learner = initial_learner(backbone="resnet12", backbone_settings=settings, image_size=32)
    seen = []
    learner.backbone.set_step = seen.append

    learner.loss(batch_of(size=32), step=7)

    assert seen == [7]


def test_bfloat16_is_near_float32_and_returns_float32():
    single, half = initial_learner().eval(), initial_learner(precision="bfloat16").eval()
    images = batch_of().query_images.flatten(0, 1)

    embeddings = half.embed(images)

    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, single.embed(images), rtol=0.1, atol=0.05)
    assert not torch.equal(embeddings, single.embed(images))


def test_double_precision_is_kept():
    learner, batch = initial_learner().double(), batch_of()
    double = EpisodeBatch(
        batch.support_images.double(),
        batch.support_labels,
        batch.query_images.double(),
        batch.query_labels,
        batch.episode_ids,
        batch.n_way,
    )

    assert learner.loss(double, step=0).loss.dtype == torch.float64


def test_certificates_come_from_the_head():
    class Certified(nn.Module):
        def take_certificates(self):
            return {"kkt_residual": np.zeros(2)}

    with_certificates = EpisodicLearner(initial_learner().backbone, Certified(), context())

    assert list(with_certificates.take_certificates()) == ["kkt_residual"]
    assert initial_learner("prototype").take_certificates() == {}


def test_on_pixels_only_the_scale_is_trained():
    learner = initial_learner(backbone="pixels")

    learner.loss(batch_of(), step=0).loss.backward()

    assert [name for name, _ in learner.named_parameters()] == ["head.scale"]


PEAK = """
import re, torch
from pathlib import Path
from fewshot.episodes.batch import EpisodeBatch
from fewshot.learners import build_learner
from fewshot.learners.base import LearnerContext

def peak():
    return int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def images(n):
    labels = torch.arange(5).repeat({episodes}, n)
    return torch.zeros({episodes}, 5 * n, {size}, {size}, 3).permute(0, 1, 4, 2, 3), labels

torch.set_num_threads(1)
context = LearnerContext(n_way=5, image_size={size}, steps_per_epoch=1, precision="{precision}")
learner = build_learner("prototype", backbone="{backbone}", context=context)
optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
before = peak()
for step in range(2):
    learner.loss(EpisodeBatch(*images(5), *images(6), torch.arange({episodes}), 5), step).loss.backward()
    optimizer.step()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("backbone", "precision", "episodes"),
    [("conv4", "float32", 8), ("r2d2", "bfloat16", 4), ("resnet12", "float32", 2)],
)
def test_memory_estimate_is_within_a_factor_of_two(backbone, precision, episodes):
    script = PEAK.format(backbone=backbone, precision=precision, size=32, episodes=episodes)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    form = context(n_way=5, image_size=32, precision=precision)
    learner = build_learner("prototype", backbone=backbone, context=form)

    estimate = learner.estimate_step_bytes(n_shot=5, n_query=6, episodes=episodes)

    assert 0.5 < estimate / int(run.stdout) < 2


@pytest.mark.parametrize("backbone", ["conv4", "resnet12", "pixels"])
def test_memory_estimate_grows_with_the_episodes_and_has_no_side_effects(backbone):
    learner = initial_learner(backbone=backbone, image_size=32)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    random_state = torch.get_rng_state()

    one, four = (learner.estimate_step_bytes(n_shot=5, n_query=6, episodes=episodes) for episodes in (1, 4))

    assert one < four <= 4 * one
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
