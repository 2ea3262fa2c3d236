"""Convolution and batch norm for accelerators: values of torch, derivatives of finite differences."""

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.func import vmap
from torch.nn import functional as F

from fewshot.backbones.side_by_side import side_by_side
from fewshot.backbones.twice_differentiable import batch_norm, convolve


def random(*shape, seed=0, requires_grad=True):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [4, 5])
def test_convolution_has_the_values_and_derivatives_of_torch(groups, stride, side):
    maps, weight = random(3, 4, side, side), random(6, 4 // groups, 3, 3, seed=1)

    def ours(maps, weight):
        return convolve(maps, weight, stride, groups)

    expected = F.conv2d(maps, weight, stride=stride, padding=1, groups=groups)
    torch.testing.assert_close(ours(maps, weight), expected, rtol=0, atol=0)
    assert gradcheck(ours, (maps, weight))
    assert gradgradcheck(ours, (maps, weight))


def test_third_derivatives_of_the_convolution_exist():
    maps, weight = random(1, 1, 2, 2), random(1, 1, 3, 3, seed=1)

    def second(maps, weight):
        (first,) = grad(convolve(maps, weight).square().sum(), weight, create_graph=True)
        return grad(first.square().sum(), maps, create_graph=True)

    assert gradcheck(second, (maps, weight))


def test_batch_norm_has_the_values_and_first_derivatives_of_torch():
    maps, weight, bias = random(3, 2, 4, 4), random(2, seed=1), random(2, seed=2)
    expected = F.batch_norm(maps, None, None, weight, bias, training=True, eps=0.1)

    torch.testing.assert_close(batch_norm(maps, weight, bias, 0.1), expected, rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda *inputs: batch_norm(*inputs, 0.1), (maps, weight, bias))


def test_second_derivatives_of_batch_norm_are_those_of_finite_differences():
    """A large epsilon, so that the standardised maps do not have unit variance."""
    maps, weight, bias = random(2, 2, 3, 3), random(2, seed=1), random(2, seed=2, requires_grad=False)
    cotangent = random(2, 2, 3, 3, seed=3)

    def of_maps(cotangent, maps, weight):
        return grad(batch_norm(maps, weight, bias, 0.1), maps, cotangent, create_graph=True)

    assert gradcheck(of_maps, (cotangent, maps, weight))


def test_gradients_of_weight_and_bias_are_not_differentiated_silently():
    maps, weight, bias = random(3, 2, 4, 4), random(2, seed=1), random(2, seed=2)
    (of_weight,) = grad(batch_norm(maps, weight, bias, 0.1).square().sum(), weight, create_graph=True)

    with pytest.raises(NotImplementedError, match="can be differentiated only once"):
        of_weight.sum().backward()


@pytest.mark.parametrize("axis", [0, 1, 4])
def test_tasks_side_by_side_give_the_numbers_of_each_task(axis):
    maps, weight, bias = random(3, 5, 2, 6, 6), random(3, 4, 2, 3, 3, seed=1), random(4, seed=2)

    def of_task(maps, weight):
        def compute(n_tasks, maps, weight, bias):
            return F.max_pool2d(convolve(maps, weight, groups=n_tasks), 2) * bias[:, None, None]

        return side_by_side(compute, maps, weight, bias)

    found = vmap(of_task, in_dims=(axis, 0))(maps.movedim(0, axis), weight)
    expected = torch.stack([of_task(*one) for one in zip(maps, weight, strict=True)])

    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs = (maps, weight, bias)
    for ours, wanted in zip(grad(found.sin().sum(), inputs), grad(expected.sin().sum(), inputs), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
