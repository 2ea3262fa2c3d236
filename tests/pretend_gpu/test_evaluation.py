"""Evaluations, exports and solvers give the numbers of the CPU on a GPU."""

import numpy as np
import pytest
import torch

from fewshot.episodes.draw import draw_episodes
from fewshot.evaluation.evaluate import evaluate
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.heads import HEADS, build_head
from fewshot.learners import ADAPTIVE_LEARNERS, LEARNERS
from fewshot.solvers import crammer_singer


@pytest.mark.parametrize("learner", sorted(LEARNERS))
def test_an_evaluation_with_diagnostics_gives_the_numbers_of_the_cpu(
    gpu, float64, learner, tiny_experiment, tiny_store
):
    inner = {"learner.inner_steps": 2} if learner in ADAPTIVE_LEARNERS else {}
    experiment = tiny_experiment(learner, "conv4_maml" if learner in ADAPTIVE_LEARNERS else "conv4", **inner)
    split = tiny_store.split("test")
    episodes = draw_episodes(0, "test", np.arange(3), experiment.test_form, split.class_sizes)
    results = []
    for device in (torch.device("cpu"), gpu.device):
        model = initial_learner(experiment).double().eval().to(device)
        results.append(evaluate(experiment, {"single": [model]}, split, episodes, device))
    (wanted_rows, wanted), (found_rows, found) = results
    assert [row["accuracy"] for row in found_rows] == [row["accuracy"] for row in wanted_rows]
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        in_float32 = name.startswith("calibration")  # sums of confidences
        tolerance = 1e-4 if name.startswith("embedding_map") else 1e-6 if in_float32 else 1e-9
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=tolerance, err_msg=name)


def episodes_of(seed: int, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return support (4, 10, 16), labels and query embeddings of 5-way episodes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(5).repeat(2)
    centres = torch.randn(4, 5, 16, generator=generator, dtype=dtype)
    noise = torch.randn(4, 10, 16, generator=generator, dtype=dtype)
    return centres[:, labels] + noise, labels.expand(4, -1), torch.randn(4, 7, 16, generator=generator, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {}) for name in HEADS] + [("svm", {"solver": "qpth", "max_iterations": 3, "allow_unconverged": True})],
)
@pytest.mark.parametrize("training", [True, False])
def test_heads_give_scores_and_gradients_of_the_cpu(gpu, name, settings, training):
    results = []
    for device in (torch.device("cpu"), gpu.device):
        head = build_head(name, **settings).double().train(training).to(device)
        support, labels, query = (part.to(device) for part in episodes_of(0))
        support.requires_grad_()
        scores = head(support, labels, query, n_way=5)
        (gradient,) = torch.autograd.grad(scores.square().sum(), support) if training else (support.detach(),)
        results.append((scores.detach().cpu(), gradient.cpu()))
    for found, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("max_rounds", [1, 40])
def test_the_solvers_of_the_dual_agree_with_the_cpu(gpu, max_rounds):
    """One round leaves problems to the fallbacks."""
    support, labels, _ = episodes_of(1)
    kernel = support @ support.mT
    wanted = crammer_singer(kernel, labels, n_way=5, max_rounds=max_rounds)
    found = crammer_singer(kernel.to(gpu.device), labels.to(gpu.device), n_way=5, max_rounds=max_rounds)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.alpha.cpu(), wanted.alpha, rtol=1e-9, atol=1e-11)


def test_a_backbone_in_half_precision_gives_the_numbers_of_the_cpu(gpu, tiny_experiment, tiny_store):
    experiment = tiny_experiment("svm", "conv4", {"precision": "bfloat16"})
    split = tiny_store.split("test")
    images = preprocessing(experiment).images(split.images[:20])
    embeddings = []
    for device in (torch.device("cpu"), gpu.device):
        model = initial_learner(experiment).eval().to(device)
        with torch.no_grad(), gpu.counting() as counts:
            embeddings.append(model.embed(images.to(device)).cpu())
    assert counts.operations["convolution_overrideable"] + counts.operations["convolution"] == 4, counts.operations
    assert not torch.equal(initial_learner(tiny_experiment("svm", "conv4")).eval().embed(images), embeddings[0])
    torch.testing.assert_close(embeddings[1], embeddings[0], rtol=2e-2, atol=2e-2)
