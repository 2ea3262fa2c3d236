"""The compiled form of a pooled block against torch's layers in the papers' order: values, gradients, statistics."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from fewshot.backbones import build_backbone, channels_last, pooled_block
from fewshot.backbones.pooled_block import PooledBlock

SHAPES = [(1, 3, 2, 2), (1, 3, 9, 4), (4, 3, 7, 7), (3, 3, 8, 6)]
SLOPES = [0.0, 0.1, 1.0]


def block_and_layers(slope=0.0, dtype=torch.float64, bias=False):
    """Return a block with batch-norm weights of both signs, and the same layers, activation before pool."""
    torch.manual_seed(0)
    block = PooledBlock(nn.Conv2d(3, 6, 3, padding=1, bias=bias), slope).to(dtype)
    with torch.no_grad():
        block[1].weight.copy_(torch.tensor([1.0, -0.5, 0.3, -2.0, 1.5, 0.8]))
        block[1].bias.normal_()
    convolution, norm = copy.deepcopy(block[0]), copy.deepcopy(block[1])
    return block, nn.Sequential(convolution, norm, nn.LeakyReLU(slope), nn.MaxPool2d(2))


def images(shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


def results(module, maps):
    """Return the output of a module in training, and the gradients of a weighted sum of it."""
    out = module(maps)
    direction = torch.arange(out.numel(), dtype=out.dtype).cos().view_as(out)
    return [out, *torch.autograd.grad((out * direction).sum(), [maps, *module.parameters()])]


@pytest.fixture
def calls(monkeypatch):
    """The number of maps that the compiled loops have pooled."""
    pooled = []
    original = channels_last.pool_and_moments
    monkeypatch.setattr(channels_last, "pool_and_moments", lambda *args: pooled.append(1) or original(*args))
    return pooled


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_gradients_and_statistics_equal_those_of_the_layers(shape, slope, calls):
    block, layers = block_and_layers(slope, bias=slope == 1)
    maps = images(shape)

    for found, expected in zip(results(block, maps), results(layers, maps), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for found, expected in zip(block.buffers(), layers.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert calls


def test_running_statistics_equal_those_of_the_layers_after_many_batches():
    block, layers = block_and_layers(dtype=torch.float32)
    for step in range(20):
        maps = 3 + images((5, 3, 6, 6), torch.float32) * (step + 1)
        block(maps), layers(maps)
    for found, expected in zip(block.buffers(), layers.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_momentum_of_none_averages_the_statistics():
    block, layers = block_and_layers()
    block[1].momentum = layers[1].momentum = None
    for scale in (1, 2, 3):
        block(images((4, 3, 6, 6)) * scale), layers(images((4, 3, 6, 6)) * scale)
    torch.testing.assert_close(block[1].running_var, layers[1].running_var)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["conv4", "r2d2"])
def test_errors_in_low_precision_do_not_exceed_those_of_the_layers(name, dtype, monkeypatch, calls):
    torch.manual_seed(0)
    settings = {"filters": 32} if name == "conv4" else {"dropout3": 0.0, "dropout4": 0.0}
    backbone = build_backbone(name, image_size=32, **settings)
    maps = images((20, 3, 32, 32), torch.float32)
    in_float64 = results(copy.deepcopy(backbone).double(), maps.detach().double().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        compiled = results(copy.deepcopy(backbone), maps)
        assert calls
        monkeypatch.setattr(pooled_block, "_takes_compiled_loops", lambda maps: False)
        plain = results(backbone, maps)

    for exact, found, reference in zip(in_float64, compiled, plain, strict=True):
        if exact.norm() > 1e-6:  # the gradient of a bias before batch norm is zero
            assert (found - exact).norm() <= 3 * (reference - exact).norm() + 1e-6 * exact.norm()


def test_gradients_equal_finite_differences():
    block, _ = block_and_layers(0.1)
    names, values = zip(*block.named_parameters(), strict=True)
    maps = images((2, 3, 5, 4))

    def function(maps, *parameters):
        return functional_call(block, dict(zip(names, parameters, strict=True)), (maps,))

    inputs = (maps, *(value.detach().clone().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_a_large_mean_costs_the_variance_few_digits():
    maps = 1000 + images((8, 6, 8, 8), torch.float32).detach()
    found = channels_last.pool_and_moments(maps.contiguous(memory_format=torch.channels_last), torch.ones(6))
    variance, mean = torch.var_mean(maps.double(), (0, 2, 3), correction=0)

    torch.testing.assert_close(torch.from_numpy(found.mean), mean, rtol=1e-8, atol=0)
    torch.testing.assert_close(torch.from_numpy(found.variance), variance, rtol=1e-5, atol=0)


def test_the_first_of_equal_pixels_receives_the_gradient():
    block, layers = block_and_layers()
    maps = torch.ones(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    for found, expected in zip(results(block, maps), results(layers, maps), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_reach_the_output(value):
    block, _ = block_and_layers(dtype=torch.float32)
    maps = images((2, 3, 8, 8), torch.float32).detach()
    maps[0, 0, 7, 7] = value
    assert block(maps).isnan().any()


def test_an_empty_batch_gives_empty_maps_and_leaves_the_statistics_to_the_layers(calls):
    block, layers = block_and_layers()
    empty = images((0, 3, 8, 8))

    assert block(empty).shape == layers(empty).shape
    torch.testing.assert_close(block[1].running_var, layers[1].running_var)
    assert not calls


def test_frozen_weights_get_no_gradient_and_change_no_other():
    block, layers = block_and_layers()
    for module in (block, layers):
        module[0].requires_grad_(False)
        module[1].weight.requires_grad_(False)
    maps = images((3, 3, 6, 6)).detach()
    for module in (block, layers):
        module(maps).square().sum().backward()

    torch.testing.assert_close(block[1].bias.grad, layers[1].bias.grad, rtol=1e-10, atol=1e-10)
    assert block[1].weight.grad is None


def test_evaluation_uses_running_statistics(calls):
    block, layers = block_and_layers()
    maps = images((3, 3, 6, 6))
    block(maps), layers(maps)
    calls.clear()

    torch.testing.assert_close(block.eval()(maps), layers.eval()(maps), rtol=1e-12, atol=1e-12)
    assert not calls


def test_the_layers_take_over_within_functional_transforms(calls):
    block, layers = block_and_layers()
    for norm in (block[1], layers[1]):
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    maps = images((2, 4, 3, 6, 6)).detach()

    def transformed(module):
        total = lambda maps: module(maps).square().sum()  # noqa: E731
        return vmap(module)(maps), grad(total)(maps[0]), *jvp(total, (maps[0],), (maps[1],))

    for found, expected in zip(transformed(block), transformed(layers), strict=True):
        torch.testing.assert_close(found, expected)
    assert not calls


def test_the_layers_take_over_while_a_block_is_exported(calls):
    block, _ = block_and_layers(dtype=torch.float32)
    maps = images((2, 3, 8, 8), torch.float32).detach()
    exported = torch.export.export(copy.deepcopy(block), (maps,)).module()
    traced = torch.jit.trace(copy.deepcopy(block), (maps,), check_trace=False)
    assert not calls

    expected = block(maps)
    torch.testing.assert_close(exported(maps), expected)
    torch.testing.assert_close(traced(maps), expected)
