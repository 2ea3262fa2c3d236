"""Hand-written derivatives of pooled moments against autograd of the plain operations and finite differences."""

import pytest
import torch
import torch.nn.functional as F

from fewshot.backbones.pooled_moments import pooled_moments


def plain(maps, weight):
    """Compute the same with PyTorch operations, differentiated by autograd."""
    sign = torch.where(weight >= 0, 1.0, -1.0).to(maps.dtype)[:, None, None]
    variance, mean = torch.var_mean(maps, (0, 2, 3), correction=0)
    return sign * F.max_pool2d(sign * maps, 2), mean, variance


@pytest.fixture(params=[(1, 1, 2, 2), (3, 5, 6, 8), (2, 4, 7, 5)], ids=str)
def maps(request):
    generator = torch.Generator().manual_seed(0)
    return (3 + torch.randn(request.param, generator=generator, dtype=torch.float64)).requires_grad_()


def signs(maps):
    return torch.tensor([1.0, -0.5, 0.0, 2.0, -1.0], dtype=maps.dtype)[: maps.shape[1]]


def test_values_equal_the_plain_operations(maps):
    for found, expected in zip(pooled_moments(maps, signs(maps)), plain(maps, signs(maps)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_both_derivatives_equal_those_of_the_plain_operations(maps):
    found, expected = (derivatives(function, maps) for function in (pooled_moments, plain))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def derivatives(function, maps):
    """Return the gradient of a non-linear function of the outputs, and the gradient of that gradient's squares."""
    generator = torch.Generator().manual_seed(1)
    outputs = function(maps, signs(maps))
    weights = [torch.randn(o.shape, generator=generator, dtype=o.dtype).requires_grad_() for o in outputs]
    value = sum((weight * output.sin()).sum() for weight, output in zip(weights, outputs, strict=True))
    (first,) = torch.autograd.grad(value, maps, create_graph=True)
    return [first.detach(), *torch.autograd.grad(first.square().sum(), [maps, *weights])]


def test_gradients_equal_finite_differences(maps):
    function = lambda x: pooled_moments(x, signs(maps))  # noqa: E731
    assert torch.autograd.gradcheck(function, maps)
    assert torch.autograd.gradgradcheck(function, maps)


def test_float32_moments_are_accurate_at_a_large_mean():
    generator = torch.Generator().manual_seed(0)
    maps = 1000 + torch.randn(20, 3, 16, 16, generator=generator)
    _, mean, variance = pooled_moments(maps, torch.ones(3))
    torch.testing.assert_close(mean.double(), maps.double().mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), maps.double().var((0, 2, 3), correction=0), rtol=1e-3, atol=0)
