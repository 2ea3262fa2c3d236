"""The compiled products of thin matrices agree with float64 products, at every remainder of their tiles."""

import pytest
import torch

from fewshot.heads import build_head, thin_products
from fewshot.heads.thin_products import gram, inner_products

SIZES = [(1, 1, 1), (5, 4, 3), (5, 25, 256), (6, 9, 257), (30, 7, 2050), (11, 13, 4100)]


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize(("n_left", "n_rows", "n_features"), SIZES)
def test_products_are_those_of_float64(n_left, n_rows, n_features, dtype, error):
    left, rows = draw(2, n_left, n_features, dtype=dtype), draw(2, n_rows, n_features, dtype=dtype) + 0.5

    for found, exact in (
        (gram(rows), rows.double() @ rows.mT.double()),
        (inner_products(left, rows), left.double() @ rows.mT.double()),
    ):
        assert found.dtype == dtype
        assert (found - exact).abs().max() <= error * rows.double().square().sum(2).max().clamp(min=1)


def test_gram_is_exactly_symmetric():
    product = gram(draw(3, 11, 300, dtype=torch.float32))

    assert torch.equal(product, product.mT)


def test_a_non_finite_entry_reaches_every_product_it_enters():
    rows = draw(1, 6, 40)
    rows[0, 4, 7] = torch.nan

    assert gram(rows)[0, 4].isnan().all()
    assert inner_products(draw(1, 3, 40), rows)[0, :, 4].isnan().all()


def test_transposed_and_strided_inputs():
    rows = draw(2, 40, 12).mT[:, ::2]

    assert torch.allclose(gram(rows), rows @ rows.mT)
    assert torch.allclose(inner_products(draw(2, 40, 3).mT, rows), draw(2, 40, 3).mT @ rows.mT)


@pytest.mark.parametrize("name", ["svm", "svm_ww", "ridge"])
def test_heads_are_the_same_with_the_products_of_torch(name, monkeypatch):
    """The code path of accelerators, on the CPU."""
    support, query, labels = draw(2, 12, 30), draw(2, 8, 30) + 0.2, torch.arange(4).repeat(3).expand(2, -1)

    def scores_and_gradients() -> tuple[torch.Tensor, ...]:
        inputs = support.clone().requires_grad_(), query.clone().requires_grad_()
        scores = build_head(name).double()(inputs[0], labels, inputs[1], n_way=4)
        return scores, *torch.autograd.grad(scores.square().sum(), inputs)

    compiled = scores_and_gradients()
    monkeypatch.setattr(thin_products, "_compiled", lambda rows: False)

    for one, other in zip(compiled, scores_and_gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
