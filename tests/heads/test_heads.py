"""Every registered head keeps the interface; the heads with a solver also report certificates."""

import inspect
import sys

import numpy as np
import pytest
import torch

from fewshot.errors import NumericalError, ParamsError
from fewshot.heads import HEADS, Head, HeadSettings, PrototypeHead, RidgeHead, SvmHead, build_head
from fewshot.solvers import crammer_singer

SVMS = ["svm", "svm_ww", "svm_he"]


def draw_episodes(n_episodes=3, n_way=4, n_shot=3, n_query=2, n_features=12, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.randperm(n_way * n_shot, generator=generator) % n_way for _ in range(n_episodes)])
    centres = torch.randn(n_episodes, n_way, n_features, generator=generator, dtype=dtype)

    def draw(classes):
        noise = torch.randn(*classes.shape, n_features, generator=generator, dtype=dtype)
        return (centres.gather(1, classes[:, :, None].expand(-1, -1, n_features)) + 0.8 * noise).relu()

    query_labels = torch.arange(n_way).repeat(n_query).expand(n_episodes, -1)
    return draw(labels), labels, draw(query_labels)


@pytest.fixture(params=HEADS)
def head(request):
    return build_head(request.param).double()


def test_scores_have_shape_dtype_and_scale(head):
    support, labels, query = draw_episodes()
    scores = head(support, labels, query, n_way=4)
    assert scores.shape == (3, 8, 4)
    assert scores.dtype == torch.float64
    assert list(dict(head.named_parameters())) == ["scale"]
    assert head.scale.shape == ()
    assert head.scale == 1
    with torch.no_grad():
        head.scale.fill_(2.5)
    torch.testing.assert_close(head(support, labels, query, n_way=4), 2.5 * scores)


@pytest.mark.parametrize("name", HEADS)
def test_initial_scale_is_the_first_value_of_scale(name):
    support, labels, query = draw_episodes()
    plain, scaled = build_head(name).double(), build_head(name, initial_scale=8.0).double()
    torch.testing.assert_close(scaled(support, labels, query, n_way=4), 8 * plain(support, labels, query, n_way=4))
    assert scaled.scale.requires_grad


def test_most_queries_find_their_class(head):
    support, labels, query = draw_episodes(20, n_features=64)
    found = head(support, labels, query, n_way=4).argmax(2)
    assert (found == torch.arange(4).repeat(2)).double().mean() > 0.8


def test_order_of_rows_and_classes_does_not_matter(head):
    support, labels, query = draw_episodes()
    scores = head(support, labels, query, n_way=4)
    rows, classes, queries = torch.randperm(12), torch.randperm(4), torch.randperm(8)
    permuted = head(support[:, rows], classes[labels[:, rows]], query[:, queries], n_way=4)
    torch.testing.assert_close(permuted[:, :, classes], scores[:, queries], rtol=1e-9, atol=1e-12)


def test_batch_equals_loop(head):
    support, labels, query = draw_episodes()
    batch = head(support, labels, query, n_way=4)
    single = torch.cat([head(*(v[t : t + 1] for v in (support, labels, query)), n_way=4) for t in range(3)])
    torch.testing.assert_close(batch, single, rtol=1e-10, atol=1e-13)


def test_unbalanced_classes(head):
    support, _, query = draw_episodes()
    labels = torch.tensor([[0] * 8 + [1, 2, 3, 3]] * 3)
    assert torch.isfinite(head(support, labels, query, n_way=4)).all()


def test_float32_agrees_with_float64(head):
    support, labels, query = draw_episodes()
    expected = head(support, labels, query, n_way=4)
    found = head.float()(support.float(), labels, query.float(), n_way=4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_half_precision_is_computed_in_float32(head):
    support, labels, query = (v.bfloat16() if v.is_floating_point() else v for v in draw_episodes())
    expected = head.float()(support.float(), labels, query.float(), n_way=4)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(support, labels, query, n_way=4)
        wide = head(support.float(), labels, query.float(), n_way=4)
    assert torch.equal(found, expected)
    assert torch.equal(wide, expected)


def test_gradients(head):
    support, labels, query = draw_episodes(2, 3, 2, 1, 5)
    head.requires_grad_(False)
    # away from the zero vector, at which the cosine has no derivative
    arguments = (support + 0.1).requires_grad_(), (query + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, z: head(x, labels, z, n_way=3), arguments, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_svm_gradients_with_active_bounds(backend):
    support, labels, query = draw_episodes(2, 4, 4, 2, 10, seed=3)
    alpha = crammer_singer(support @ support.mT, labels, 4).alpha
    upper = 0.1 * torch.nn.functional.one_hot(labels, 4)
    assert 0.2 <= (upper - alpha < 1e-9).double().mean() <= 0.6
    head = build_head("svm", backend=backend).double().requires_grad_(False)
    arguments = support.requires_grad_(), query.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, z: head(x, labels, z, n_way=4), arguments, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "bound"), [("svm_ww", 0.05), ("svm_he", 1.0)])
def test_box_heads_have_gradients_through_free_variables(name, bound):
    support, labels, query = draw_episodes(2, 3, 3, 2, 30, seed=1)
    head = build_head(name, bound=bound).double().requires_grad_(False)
    head.eval()
    head(support, labels, query, n_way=3)
    assert head.take_certificates()["converged"].all()
    arguments = support.requires_grad_(), query.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, z: head(x, labels, z, n_way=3), arguments, atol=1e-6, rtol=1e-5)


def test_svm_scores_sum_to_zero():
    scores = build_head("svm").double()(*draw_episodes(), n_way=4)
    assert scores.sum(2).abs().max() < 1e-12


def test_svm_by_qpth_with_many_iterations_agrees():
    support, labels, query = draw_episodes()
    exact = build_head("svm").double()(support, labels, query, n_way=4)
    for solver in ("qpth", "truncated"):
        head = build_head("svm", solver=solver, max_iterations=30, solver_precision="float64").double()
        torch.testing.assert_close(head(support, labels, query, n_way=4), exact, rtol=1e-5, atol=1e-6)


def test_qpth_that_is_not_installed_is_named_when_the_head_is_built(monkeypatch):
    monkeypatch.setitem(sys.modules, "qpth", None)
    with pytest.raises(ParamsError, match="pip install --no-deps qpth"):
        SvmHead(solver="qpth")


def test_stopped_svm_approaches_the_optimum_within_15_iterations():
    episodes = draw_episodes()
    exact = build_head("svm").double()(*episodes, n_way=4)
    for iterations, least, most in ((3, 1e-3, 1.0), (15, 0.0, 1e-3)):
        stopped = build_head("svm", solver="truncated", max_iterations=iterations).double()(*episodes, n_way=4)
        assert least <= (stopped - exact).abs().max() <= most


def test_not_contiguous_inputs(head):
    support, labels, query = draw_episodes()
    expected = head(support, labels, query, n_way=4)
    twice = [v.repeat_interleave(2, 1)[:, ::2] for v in (support, labels, query)]
    torch.testing.assert_close(head(*twice, n_way=4), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["ridge", "r2d2", "logistic", *SVMS])
def test_second_derivative_is_refused(name):
    support, labels, query = draw_episodes()
    scores = build_head(name).double()(support.requires_grad_(), labels, query, n_way=4)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(scores.square().sum(), support, create_graph=True)


@pytest.mark.parametrize("name", ["logistic", *SVMS])
def test_certificates_are_kept_in_evaluation_only(name):
    head, episodes = build_head(name).double(), draw_episodes()
    head(*episodes, n_way=4)
    assert head.take_certificates() == {}
    head.eval()
    head(*episodes, n_way=4)
    head(*episodes, n_way=4)
    certificates = head.take_certificates()
    assert certificates["converged"].tolist() == [True] * 6
    assert certificates["kkt_residual"].max() <= 1e-9
    assert head.take_certificates() == {}


def test_closed_form_heads_have_no_certificates():
    head = build_head("ridge").double().eval()
    head(*draw_episodes(), n_way=4)
    assert head.take_certificates() == {}


def test_unconverged_episodes_stop_training_unless_allowed():
    residual, converged = torch.tensor([1e-12, 1e-3]), torch.tensor([True, False])
    with pytest.raises(NumericalError, match=r"1 of 2 episodes .* 0\.001"):
        SvmHead().certify(residual, converged)
    SvmHead(allow_unconverged=True).certify(residual, converged)
    head = SvmHead().eval()
    head.certify(residual, converged)
    np.testing.assert_array_equal(head.take_certificates()["converged"], [True, False])


def fill(features, value):
    return features.index_fill(1, torch.tensor(1), value)


BAD_EPISODES = {
    "n_way": (lambda x, y, z: (x, y, z, 1), ValueError, "n_way is 1; allowed: 2 or more"),
    "flat support": (lambda x, y, z: (x[0, 0], y, z, 4), ValueError, r"support has shape \(12,\)"),
    "support of one episode": (lambda x, y, z: (x[0], y[0], z, 4), ValueError, r"query has shape \(3, 8, 12\)"),
    "labels of all episodes": (lambda x, y, z: (x[0], y, z[0], 4), ValueError, r"support_labels has shape \(3, 12\)"),
    "no support": (lambda x, y, z: (x[:, :0], y[:, :0], z, 4), ValueError, "support_labels is empty"),
    "integer query": (lambda x, y, z: (x, y, z.long(), 4), ValueError, "query has .* floating point"),
    "other features": (lambda x, y, z: (x, y, z[..., :5], 4), ValueError, r"query has shape \(3, 8, 5\)"),
    "other episodes": (lambda x, y, z: (x, y, z[:2], 4), ValueError, r"query has shape \(2, 8, 12\)"),
    "short labels": (lambda x, y, z: (x, y[:, :5], z, 4), ValueError, r"support_labels has shape \(3, 5\)"),
    "float labels": (lambda x, y, z: (x, y.double(), z, 4), ValueError, "support_labels .* allowed: integers"),
    "large label": (lambda x, y, z: (x, y, z, 3), ValueError, r"support_labels holds 3; allowed: 0 \.\. 2"),
    "negative label": (lambda x, y, z: (x, y - 1, z, 4), ValueError, "support_labels holds -1; allowed"),
    "missing class": (lambda x, y, z: (x, y, z, 5), ValueError, "episode 0 has no image of class 4"),
    "support nan": (lambda x, y, z: (fill(x, torch.nan), y, z, 4), NumericalError, r"support\[0, 1, 0\] is nan"),
    "support inf": (lambda x, y, z: (fill(x, torch.inf), y, z, 4), NumericalError, r"support\[0, 1, 0\] is inf"),
    "query nan": (lambda x, y, z: (x, y, fill(z, torch.nan), 4), NumericalError, r"query\[0, 1, 0\] is nan"),
    "query inf": (lambda x, y, z: (x, y, fill(z, torch.inf), 4), NumericalError, r"query\[0, 1, 0\] is inf"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_EPISODES)
def test_invalid_episodes_are_rejected(head, case):
    change, error, message = BAD_EPISODES[case]
    support, labels, query, n_way = change(*draw_episodes())
    with pytest.raises(error, match=message):
        head(support, labels, query, n_way=n_way)


@pytest.mark.parametrize("name", ["ridge", "svm"])
def test_overflow_of_finite_embeddings_is_a_numerical_error(name):
    support, labels, query = draw_episodes()
    with pytest.raises(NumericalError, match="kernel"):
        build_head(name).double()(1e200 * support, labels, query)


def test_number_of_ways_comes_from_the_labels(head):
    support, labels, query = draw_episodes()
    assert torch.equal(head(support, labels, query), head(support, labels, query, n_way=4))


def test_a_gap_in_the_labels_is_a_missing_class(head):
    support, labels, query = draw_episodes()
    with pytest.raises(ValueError, match="has no image of class 2; allowed: at least one for each of the 4 classes"):
        head(support, labels.where(labels != 2, 3), query)


def test_a_single_episode_has_no_episode_axis(head):
    support, labels, query = draw_episodes(1)
    scores = head(support[0], labels[0], query[0])
    assert scores.shape == (8, 4)
    assert torch.equal(scores, head(support, labels, query)[0])


def test_ridge_head_is_six_lines_of_torch():
    (support, labels, query) = (value[0] for value in draw_episodes(1, n_way=5, n_shot=5, n_features=40))
    targets = 2.0 * torch.nn.functional.one_hot(labels).double()
    kernel = support @ support.T
    coefficients = torch.linalg.solve(kernel + 50.0 * torch.eye(25, dtype=torch.float64), targets)
    scores = query @ support.T @ coefficients
    torch.testing.assert_close(RidgeHead().double()(support, labels, query), scores, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_heads_show_their_settings(name):
    head_class, settings = HEADS[name].load(), HEADS[name].settings
    defaults = {field: information.default for field, information in settings.model_fields.items()}
    parameters = inspect.signature(head_class).parameters
    assert {field: parameter.default for field, parameter in parameters.items()} == defaults
    assert head_class().settings == settings()
    head = head_class(initial_scale=3.0)
    assert head.settings.initial_scale == 3.0
    assert head.scale == 3.0
    assert repr(head).startswith(f"{head_class.__name__}(")
    assert "initial_scale=3.0" in repr(head)


def test_a_head_of_the_user_takes_its_own_settings():
    class Settings(HeadSettings):
        slope: float = 2.0

    class LinearHead(Head):
        settings: Settings

        def scores(self, support, support_labels, query, n_way):
            return self.settings.slope * query[..., :n_way]

    support, labels, query = draw_episodes()
    assert torch.equal(LinearHead(slope=5.0)(support, labels, query), 5 * query[..., :4])
    assert repr(LinearHead()) == "LinearHead(slope=2.0, initial_scale=1.0)"


BAD_SETTINGS = [
    ("ridge", {"ridge": 0.0}, "ridge: 0.0 is not allowed: it should be greater than 0"),
    ("r2d2", {"ridge": -1.0}, "ridge: -1.0 is not allowed"),
    ("svm", {"bound": 0.0}, "bound: 0.0 is not allowed"),
    ("svm", {"bond": 1}, "unknown key 'bond'; allowed: .*bound.* Did you mean 'bound'?"),
    ("svm", {"diagonal_shift": -1.0}, "diagonal_shift: -1.0 is not allowed"),
    ("svm", {"solver": "osqp"}, "solver: 'osqp' is not allowed: it should be 'exact', 'qpth' or 'truncated'"),
    ("svm", {"max_iterations": 0}, "max_iterations: 0 is not allowed"),
    ("svm_ww", {"bound": -1.0}, "bound: -1.0 is not allowed"),
    ("svm_he", {"bound": 0.0}, "bound: 0.0 is not allowed"),
    ("prototype", {"metric": "cosine"}, "unknown key 'metric'; allowed: .*divide_by_dimension"),
    ("prototype", {"initial_scale": 0.0}, "initial_scale: 0.0 is not allowed"),
]


@pytest.mark.parametrize(("name", "setting", "message"), BAD_SETTINGS)
def test_invalid_settings_are_rejected_with_what_is_allowed(name, setting, message):
    for build in (lambda: build_head(name, **setting), lambda: HEADS[name].load()(**setting)):
        with pytest.raises(ParamsError, match=message):
            build()


def test_the_package_exports_every_head():
    import fewshot.heads

    assert fewshot.heads.PrototypeHead is PrototypeHead is HEADS["prototype"].load()
    for part in HEADS.values():
        assert part.load().__name__ in fewshot.heads.__all__
    with pytest.raises(AttributeError, match="has no attribute 'SvnHead'"):
        fewshot.heads.SvnHead  # noqa: B018


def test_the_registry_is_read_without_torch():
    import subprocess
    import sys

    code = "import sys, fewshot.heads; assert not {'torch', 'numpy', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["support", "support_labels", "query"])
def test_an_array_in_place_of_a_tensor_is_named(name):
    episodes = dict(zip(("support", "support_labels", "query"), draw_episodes(), strict=True))
    episodes[name] = episodes[name].numpy()
    with pytest.raises(TypeError, match=f"^{name} is a ndarray; allowed: a torch.Tensor"):
        PrototypeHead().double()(**episodes)


@pytest.mark.parametrize("n_way", ["4", 4.0])
def test_a_number_of_ways_that_is_no_integer_is_refused(n_way):
    with pytest.raises(TypeError, match=f"n_way is {n_way!r}; allowed: an integer"):
        PrototypeHead().double()(*draw_episodes(), n_way=n_way)


def test_embeddings_without_features_are_refused(head):
    support, labels, query = draw_episodes()
    with pytest.raises(ValueError, match="1 feature or more"):
        head(support[..., :0], labels, query[..., :0])
