"""Every gradient-based learner adapts the right weights, rejects bad combinations up front and uses constant memory."""

import dataclasses
import resource

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fewshot.errors import NumericalError, ParamsError
from fewshot.learners import ADAPTIVE_LEARNERS, build_learner
from fewshot.learners.base import LearnerContext
from fewshot.learners.diagnostics import linear_cka
from fewshot.learners.inner_loop import adapt_detached, split_tasks, starting_weights
from fewshot.learners.settings import EvaluationSettings


def test_anil_adapts_the_head_only(small_learner, random_batch):
    learner = small_learner("anil")
    task = learner.prepare(next(split_tasks(random_batch())))
    step = list(adapt_detached(learner, task, 2))[-1]

    assert set(step.updated) == {"head.weight", "head.bias"}
    assert not torch.equal(step.updated["head.weight"], learner.network.head.weight)


def test_anil_equals_maml_with_a_fixed_backbone(small_learner, random_batch):
    anil, maml, batch = small_learner("anil"), small_learner("maml"), random_batch()
    maml.adaptable = anil.adaptable
    torch.testing.assert_close(anil.logits(batch), maml.logits(batch), rtol=1e-12, atol=1e-12)


def test_boil_adapts_the_convolutions_only(small_learner, random_batch):
    learner = small_learner("boil")
    step = list(adapt_detached(learner, next(split_tasks(random_batch())), 2))[-1]

    assert set(step.updated) == {f"backbone.stages.{i}.convolution.weight" for i in range(4)}


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_batch_norm_weights_are_not_adapted(name, small_learner):
    assert not [weight for weight in small_learner(name).adapted if "norm" in weight]


def test_cxgrad_scales_gradients_but_not_the_loss(small_learner, random_batch):
    """Gradient norm after rescaling times gamma equals gradient norm before times ||W||, up to batch norm's epsilon."""
    learner, task = small_learner("cxgrad"), next(split_tasks(random_batch()))
    plain = starting_weights(learner, task)
    scaled = learner.rescale(plain)
    losses, norms = [], []
    for fast in (plain, scaled):
        loss = torch.nn.functional.cross_entropy(learner.support_logits(task, fast, 0), task.support_labels)
        gradients = torch.autograd.grad(loss, [fast[name] for name in learner.convolutions], retain_graph=True)
        losses.append(loss.item())
        norms.append([gradient.norm().item() for gradient in gradients])
    gammas = learner.generator(plain["context"]).detach().numpy()
    weights = np.array([plain[name].norm().item() for name in learner.convolutions])

    np.testing.assert_allclose([scaled[name].norm().item() for name in learner.convolutions], gammas, rtol=1e-12)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    np.testing.assert_allclose(np.array(norms[1]) * gammas, np.array(norms[0]) * weights, rtol=1e-2)


def test_cxgrad_trains_the_enabled_parts_of_mamlpp(small_learner, random_batch, outer_gradients):
    learner = small_learner("cxgrad", multi_step_loss_epochs=5, per_layer_rates=True, per_step_batch_norm=True)
    gradients = outer_gradients(learner, random_batch())
    assert gradients.keys() == {name for name, _ in learner.named_parameters()}


def test_alfa_attenuation_shrinks_the_initial_weights(small_learner, random_batch):
    learner, task = small_learner("alfa", attenuate=True), next(split_tasks(random_batch()))
    learned = dict(learner.network.named_parameters())
    for name, weight in starting_weights(learner, task).items():
        factor = (weight / learned[name]).detach().flatten()
        assert name.endswith("bias") or (0 < factor[0] < 1 and torch.allclose(factor, factor[0].expand_as(factor)))


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_adaptation_lowers_the_support_loss(name, small_learner, random_batch):
    learner = small_learner(name, inner_learning_rate=0.01 if name == "cxgrad" else 0.1)
    if name == "alfa":  # start from a generator that keeps the rates unchanged
        torch.nn.init.zeros_(learner.generator[2].weight)
        torch.nn.init.ones_(learner.generator[2].bias)
    losses = learner.diagnose(random_batch(n_episodes=4))["support_loss"]
    assert (losses[:, -1] < losses[:, 0]).all()


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_logits_equal_those_of_the_training_pass(name, small_learner, random_batch):
    """Evaluation keeps no graph; its numbers are the same."""
    learner, batch = small_learner(name), random_batch(n_episodes=2)
    logits = learner.logits(batch)
    expected = [
        learner.query_logits(task, last.updated, last.index)
        for task in split_tasks(batch)
        for last in list(learner.adapt(task, 0))[-1:]
    ]
    assert not logits.requires_grad
    torch.testing.assert_close(logits, torch.stack(expected).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_norm", ["support", "per_query"])
def test_inductive_modes_classify_each_query_independently(batch_norm, small_learner, random_batch):
    batch = random_batch(image_size=32)
    half = dataclasses.replace(batch, query_images=batch.query_images[:, ::2], query_labels=batch.query_labels[:, ::2])
    inductive, transductive = (
        small_learner("maml", batch_norm=mode, image_size=32) for mode in (batch_norm, "transductive")
    )

    assert inductive.batch_norm == batch_norm
    torch.testing.assert_close(inductive.logits(half), inductive.logits(batch)[:, ::2], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(transductive.logits(half), transductive.logits(batch)[:, ::2], rtol=1e-3)


def test_support_mode_scores_support_images_as_the_inner_loop_does(small_learner, random_batch):
    learner, batch = small_learner("maml", batch_norm="support"), random_batch()
    batch = dataclasses.replace(batch, query_images=batch.support_images, query_labels=batch.support_labels)
    task = next(split_tasks(batch))
    fast = learner.initial_weights(task)
    torch.testing.assert_close(learner.query_logits(task, fast, 0), learner.support_logits(task, fast, 0))


def test_evaluation_can_take_more_steps(small_learner, random_batch):
    learner = small_learner("maml").for_evaluation(EvaluationSettings(inner_steps=7))
    assert learner.diagnose(random_batch())["query_accuracy"].shape == (1, 8)


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_diagnostics_have_the_documented_shapes(name, small_learner, random_batch):
    learner = small_learner(name)
    found = learner.diagnose(random_batch(n_episodes=3))
    steps = learner.settings.inner_steps

    assert found["gradient_norm"].shape == (3, steps, 5)
    assert found["query_accuracy"].shape == (3, steps + 1)
    assert found["feature_similarity"].shape == (3, 4)
    assert ("gamma" in found) == (name == "cxgrad")
    adapted = [any(w.startswith(f"backbone.stages.{i}.") for w in learner.adapted) for i in range(4)]
    adapted += [any(w.startswith("head.") for w in learner.adapted)]
    np.testing.assert_array_equal(np.isfinite(found["gradient_norm"]).all((0, 1)), adapted)
    unchanged = np.isclose(found["feature_similarity"], 1, atol=1e-12).all()
    assert unchanged == (name == "anil")


def test_diagnosed_accuracy_is_that_of_the_logits(small_learner, random_batch):
    learner, batch = small_learner("cxgrad"), random_batch(n_episodes=3)
    accuracy = (learner.logits(batch).argmax(-1) == batch.query_labels).double().mean(1)
    np.testing.assert_allclose(learner.diagnose(batch)["query_accuracy"][:, -1], accuracy, atol=1e-6)


def test_linear_cka_ignores_rotation_and_scale_and_distinguishes_features():
    generator = torch.Generator().manual_seed(0)
    features, other = torch.randn(2, 50, 6, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))

    assert linear_cka(features, 3 * features @ rotation + 1) == pytest.approx(1, abs=1e-12)
    assert linear_cka(features, other) < 0.5
    centred = [x - x.mean(0) for x in (features, other)]
    by_definition = (centred[1].T @ centred[0]).norm() ** 2 / (
        (centred[0].T @ centred[0]).norm() * (centred[1].T @ centred[1]).norm()
    )
    assert linear_cka(features, other) == pytest.approx(by_definition.item(), rel=1e-12)


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_a_resumed_training_equals_an_uninterrupted_one(name, small_learner, random_batch):
    def train(learner, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            learner.loss(random_batch(seed=step), step).loss.backward()
            optimizer.step()

    whole = small_learner(name)
    train(whole, torch.optim.Adam(whole.parameters(), lr=1e-3), range(4))
    first, second = small_learner(name), small_learner(name)
    optimizer = torch.optim.Adam(first.parameters(), lr=1e-3)
    train(first, optimizer, range(2))
    second.load_state_dict(first.state_dict())
    resumed = torch.optim.Adam(second.parameters(), lr=1e-3)
    resumed.load_state_dict(optimizer.state_dict())
    train(second, resumed, range(2, 4))

    for found, expected in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_a_non_finite_loss_names_episode_step_and_rate(small_learner, random_batch):
    batch = random_batch(n_episodes=2)
    batch.support_images[1] = float("nan")
    for compute in (small_learner("maml").logits, lambda batch: small_learner("maml").loss(batch, 0)):
        with pytest.raises(NumericalError, match=r"episode 101 at inner step 0 \(inner_learning_rate 0\.1\)"):
            compute(batch)


def test_a_different_number_of_ways_is_refused(small_learner, random_batch):
    with pytest.raises(ParamsError, match="linear head for 3 ways but the episodes have 4"):
        small_learner("maml").logits(random_batch(n_way=4))


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"inner_step": 3}, "inner_step"),
        ({"inner_steps": 0}, "inner_steps"),
        ({"inner_learning_rate": -0.1}, "inner_learning_rate"),
        ({"batch_norm": "running"}, "batch_norm"),
    ],
)
def test_unusable_settings_are_refused(name, settings, key):
    with pytest.raises(ValidationError, match=key):
        ADAPTIVE_LEARNERS[name].settings(**settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mamlpp", {}),
        ("alfa", {}),
        ("cxgrad", {"per_layer_rates": True}),
        ("cxgrad", {"per_step_batch_norm": True}),
    ],
)
def test_evaluation_steps_without_parameters_are_refused(name, settings, small_learner):
    learner = small_learner(name, inner_steps=5, **settings)
    with pytest.raises(ParamsError, match="inner_steps 7: it has parameters for each of its 5 inner steps"):
        learner.for_evaluation(EvaluationSettings(inner_steps=7))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"backbone": "conv4"}, "needs conv4_maml, not 'conv4'"),
        ({"backbone_settings": {"bias": True}}, "bias: false"),
        ({"context": {"precision": "bfloat16"}}, "precision: float32"),
        ({"context": {"joint_forward": True}}, "joint_forward: false"),
        ({"context": {"compile": True}}, "for other weights in each task; set compile: false"),
        ({"context": {"label_smoothing": 0.1}}, "label_smoothing"),
        (
            {"batch_norm": "per_query", "context": {"image_size": 16}, "backbone_settings": {"pooling": "stride"}},
            "per_query",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(part, message):
    part = {"backbone": "conv4_maml", **part}
    context = {"n_way": 5, "image_size": 32, "steps_per_epoch": 1, **part.pop("context", {})}
    with pytest.raises(ParamsError, match=message):
        build_learner("cxgrad", context=LearnerContext(**context), **part)


def test_evaluation_memory_is_constant_over_1000_episodes(small_learner, random_batch):
    learner, batch = small_learner("cxgrad", inner_steps=1), random_batch(n_episodes=50, n_shot=1, n_query=1)

    def peak_after(batches):
        for _ in range(batches):
            learner.logits(batch)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    start = peak_after(10)
    assert peak_after(20) - start < 16_384  # KiB: kept graphs of 1000 episodes would need far more


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("maml", {}),
        ("maml", {"checkpoint_inner_steps": True}),
        ("maml", {"batch_norm": "support"}),
        ("fomaml", {}),
        ("anil", {}),
        ("mamlpp", {}),
        ("cxgrad", {"inner_steps": 5}),
    ],
)
@pytest.mark.parametrize("n_shot", [1, 8])
@pytest.mark.parametrize(("device", "n_episodes"), [("cpu", 1), ("cpu", 3), ("accelerator", 3)])
def test_estimated_memory_is_within_a_factor_of_two(
    name, settings, n_shot, device, n_episodes, small_learner, random_batch, as_on
):
    as_on(device)
    learner = small_learner(name, filters=16, image_size=32, **settings).float()
    learner.tasks_at_once = n_episodes > 1
    batch = random_batch(n_episodes, n_shot=n_shot, n_query=5, image_size=32, dtype=torch.float32)
    optimizer_states = 2 * sum(parameter.nbytes for parameter in learner.parameters())

    measured = peak_bytes(lambda: learner.loss(batch, 0).loss.backward()) + 2 * optimizer_states
    estimate = learner.estimate_step_bytes(n_shot=n_shot, n_query=5, episodes=n_episodes)

    assert 0.5 < estimate / measured < 2


def test_memory_does_not_grow_with_the_meta_batch_if_tasks_are_adapted_one_by_one(small_learner, random_batch):
    learner = small_learner("maml", filters=8, image_size=32)
    learner.tasks_at_once = False

    def step(n_episodes):
        learner.zero_grad(set_to_none=False)
        for task in random_batch(n_episodes, image_size=32).chunks(learner.episodes_per_backward):
            learner.loss(task, 0).loss.backward()

    step(1)
    images = random_batch(image_size=32)
    more_images = 3 * (images.support_images.nbytes + images.query_images.nbytes)
    assert peak_bytes(lambda: step(4)) < peak_bytes(lambda: step(1)) + 1.1 * more_images


def peak_bytes(function):
    """Return the peak tensor memory of the function, as PyTorch's allocator counts it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        function()
    changes = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.cumsum(changes).max())
