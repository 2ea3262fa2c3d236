"""A stage as one function, with hand-written derivatives, against PyTorch's operations and finite differences."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.backbones.pooled_stage import Options, pooled_stage

SHAPES = [(1, 1, 2, 2, 1, 1), (3, 2, 5, 7, 3, 1), (2, 2, 4, 4, 4, 2), (2, 4, 6, 5, 6, 2)]  # N, C, H, W, D, groups


class Inputs(NamedTuple):
    maps: Tensor
    weight: Tensor
    norm_weight: Tensor
    norm_bias: Tensor


def draw(n, c, height, width, d, groups, dtype=torch.float64):
    """Return random inputs; batch-norm weights of both signs."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return Inputs(normal(n, c, height, width), normal(d, c // groups, 3, 3), normal(d), normal(d))


def fused(inputs, options):
    return pooled_stage(inputs.maps, inputs.weight, None, inputs.norm_weight, inputs.norm_bias, options)


def plain(inputs, options):
    maps = F.conv2d(inputs.maps, inputs.weight, padding=1, groups=options.groups)
    maps = F.batch_norm(maps, None, None, inputs.norm_weight, inputs.norm_bias, training=True, eps=options.epsilon)
    return F.max_pool2d(F.leaky_relu(maps, options.slope), 2)


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_values_equal_the_plain_operations(shape, slope):
    inputs, options = draw(*shape), Options(shape[-1], slope, 1e-5)
    torch.testing.assert_close(fused(inputs, options), plain(inputs, options), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("differentiated", [("maps",), ("weight",), ("maps", "weight")], ids=str)
def test_both_derivatives_equal_those_of_the_plain_operations(shape, differentiated):
    found, expected = (derivatives(function, shape, differentiated) for function in (fused, plain))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def derivatives(function, shape, differentiated, dtype=torch.float64):
    """Return the gradients of a non-linear function of the output, and those of some of these gradients' cubes."""
    inputs = draw(*shape, dtype=dtype)
    out = function(inputs, Options(shape[-1], 0.01, 1e-5))
    factor = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    first = torch.autograd.grad((factor.requires_grad_() * out.sin()).sum(), inputs, create_graph=True)
    cubes = sum(getattr(Inputs(*first), name).pow(3).sum() for name in differentiated)
    second = torch.autograd.grad(cubes, [*inputs[:3], factor])
    return [gradient.detach() for gradient in (*first, *second)]


def test_gradients_equal_finite_differences(shape):
    norm_bias = draw(*shape).norm_bias.detach()

    def function(*tensors):
        return fused(Inputs(*tensors, norm_bias), Options(shape[-1], 0.01, 1e-5))

    assert torch.autograd.gradcheck(function, draw(*shape)[:3])


def test_gradients_of_gradients_equal_finite_differences(shape):
    of_norm = [tensor.detach() for tensor in draw(*shape)[2:]]

    def function(maps, weight):
        return fused(Inputs(maps, weight, *of_norm), Options(shape[-1], 0.01, 1e-5))

    assert torch.autograd.gradgradcheck(function, draw(*shape)[:2])


def test_in_float32_errors_are_those_of_the_plain_operations():
    shape = (20, 16, 21, 21, 32, 1)
    exact = derivatives(plain, shape, ("weight",))
    errors = [
        [(one - other).norm() / other.norm() for one, other in zip(found, exact, strict=True)]
        for found in (derivatives(function, shape, ("weight",), torch.float32) for function in (fused, plain))
    ]
    for own, of_plain in zip(*errors, strict=True):
        assert own <= 3 * of_plain


def test_a_large_mean_costs_no_digits():
    shape = (20, 1, 16, 16, 3, 1)
    inputs = draw(*shape, dtype=torch.float32)
    shifted = inputs._replace(maps=inputs.maps + 100, weight=inputs.weight.abs())
    exact = plain(Inputs(*(tensor.double() for tensor in shifted)), Options(1, 0.01, 1e-5))
    error = [(f(shifted, Options(1, 0.01, 1e-5)) - exact).abs().max() for f in (fused, plain)]
    assert error[0] <= 3 * error[1]


def test_an_empty_batch_gives_empty_maps():
    inputs, options = draw(0, 2, 8, 8, 3, 1), Options(1, 0.01, 1e-5)
    assert fused(inputs, options).shape == (0, 3, 4, 4)


def test_a_bias_has_no_effect_and_a_gradient_of_zero():
    inputs, options = draw(2, 2, 4, 4, 3, 1), Options(1, 0.01, 1e-5)
    bias = torch.ones(3, dtype=torch.float64, requires_grad=True)
    out = pooled_stage(inputs.maps, inputs.weight, bias, inputs.norm_weight, inputs.norm_bias, options)
    torch.testing.assert_close(out, fused(inputs, options), rtol=0, atol=0)
    assert torch.autograd.grad(out.sum(), bias)[0].tolist() == [0, 0, 0]


def test_gradients_of_batch_norm_can_be_differentiated_only_once():
    inputs = draw(2, 2, 4, 4, 3, 1)
    (gradient,) = torch.autograd.grad(
        fused(inputs, Options(1, 0.01, 1e-5)).sin().sum(), inputs.norm_weight, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="batch norm can be differentiated only once"):
        gradient.sum().backward()
