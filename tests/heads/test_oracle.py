"""Heads against the numbers of the original code and against optima found by an independent solver."""

import pytest
import torch

from fewshot.heads import build_head

pytestmark = pytest.mark.oracle


def relative_error(found, reference):
    reference = torch.as_tensor(reference).double()
    return ((found.double() - reference).abs().max() / reference.abs().max()).item()


def logits_and_gradients(head, episodes, n_way, dtype):
    support, labels, query, weights = episodes
    support, query = (value.to(dtype).requires_grad_() for value in (support, query))
    logits = head.to(dtype)(support, labels, query, n_way=n_way)
    (logits * weights).sum().backward()
    return logits.detach(), support.grad, query.grad


def assert_matches(head, tag, oracle, episodes, dtype, tolerance, gradient_tolerance=None):
    logits, support_gradient, query_gradient = logits_and_gradients(head, episodes, int(oracle["way"]), dtype)
    assert relative_error(logits, oracle[f"{tag}__logits"]) < tolerance
    stride = int(oracle["grad_stride"])
    for name, gradient in (("support", support_gradient), ("query", query_gradient)):
        reference = oracle.get(f"{tag}__grad_{name}")
        if reference is not None:
            assert relative_error(gradient[..., ::stride], reference) < (gradient_tolerance or tolerance)


@pytest.mark.parametrize(
    ("name", "settings", "tag"),
    [
        ("prototype", {}, "protonet"),
        ("prototype", {"divide_by_dimension": False}, "protonet_unnormalised"),
        ("ridge", {}, "ridge_double"),
        ("ridge", {}, "ridge"),
        ("r2d2", {}, "r2d2"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_heads(oracle, oracle_episodes, name, settings, tag, dtype):
    assert_matches(build_head(name, **settings), tag, oracle, oracle_episodes, dtype, 1e-5)


@pytest.mark.parametrize("name", ["ridge", "r2d2"])
def test_closed_form_in_float64(oracle, oracle_episodes, name):
    logits, _, _ = logits_and_gradients(build_head(name), oracle_episodes, int(oracle["way"]), torch.float64)
    assert relative_error(logits, oracle[f"{name}_exact__logits"]) < 1e-12
