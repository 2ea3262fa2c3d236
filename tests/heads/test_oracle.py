"""Heads compared with numbers of the original code and with optima found by an independent solver."""

import pytest
import torch

from fewshot.heads import build_head
from fewshot.solvers import crammer_singer

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


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_svm_is_the_optimum(oracle, oracle_episodes, backend):
    head = build_head("svm", backend=backend)
    assert_matches(head, "svm_cs_optimum", oracle, oracle_episodes, torch.float64, 1e-6)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_svm_in_float32_is_the_optimum(oracle, oracle_episodes, backend):
    head = build_head("svm", backend=backend)
    assert_matches(head, "svm_cs_optimum", oracle, oracle_episodes, torch.float32, 1e-6, 5e-6)


def test_svm_duals_are_the_optimum(oracle, oracle_episodes):
    support, labels = oracle_episodes[0].double(), oracle_episodes[1]
    solution = crammer_singer(support @ support.mT, labels, int(oracle["way"]))
    assert relative_error(solution.alpha, oracle["svm_cs_optimum__alpha"]) < 1e-6
    assert solution.kkt_residual.max() < 1e-12


@pytest.mark.parametrize("solver", ["truncated", "qpth"])
@pytest.mark.parametrize(
    ("iterations", "precision", "tag", "tolerance", "gradient_tolerance"),
    [
        (3, "float64", "svm_cs_it3_double", 1e-5, 1e-5),
        (15, "float64", "svm_cs_it15_double", 1e-5, 1e-3),
        (3, "float32", "svm_cs_it3", 1e-4, 1e-3),
        (15, "float32", "svm_cs_it15", 1e-3, 0.2),
    ],
)
def test_stopped_solvers_give_the_published_iterates(
    oracle, oracle_episodes, solver, iterations, precision, tag, tolerance, gradient_tolerance
):
    head = build_head("svm", solver=solver, max_iterations=iterations, solver_precision=precision)
    assert_matches(head, tag, oracle, oracle_episodes, torch.float32, tolerance, gradient_tolerance)


def test_svm_ww_solves_the_symmetric_problem(oracle, oracle_episodes):
    assert_matches(build_head("svm_ww"), "svm_ww_intended", oracle, oracle_episodes, torch.float64, 1e-6)


def test_svm_ww_equals_the_original_where_all_bounds_are_active(oracle, oracle_episodes):
    assert_matches(build_head("svm_ww"), "svm_ww_double", oracle, oracle_episodes, torch.float32, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_svm_he(oracle, oracle_episodes, dtype):
    order = torch.from_numpy(oracle["he_perm"])  # the original needs rows with alternating classes
    support, labels, query, weights = oracle_episodes
    in_turn = support.gather(1, order[:, :, None].expand_as(support)), labels.gather(1, order), query, weights
    assert_matches(build_head("svm_he"), "svm_he_double", oracle, in_turn, dtype, 1e-5)
