"""Convolutions in the form for their size: the numbers of torch's, and torch's own wherever the form does not apply."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fewshot.backbones import ResNet12
from fewshot.backbones.columns import convolve_columns
from fewshot.backbones.convolution import Convolution, form_of
from fewshot.backbones.winograd import convolve_winograd

FORMS = {"columns": convolve_columns, "winograd": convolve_winograd}
SIZES = [(2, 4, 4), (1, 4, 4), (3, 2, 2), (2, 1, 1), (1, 5, 3), (2, 7, 10), (1, 11, 12)]  # images, height, width


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def direct(maps, weight):
    return F.conv2d(maps, weight, padding=1)


def value_and_gradients(function, maps, weight, cotangent):
    inputs = (maps.clone().requires_grad_(), weight.clone().requires_grad_())
    out = function(*inputs)
    return out.detach(), *grad(out, inputs, cotangent)


def relative_error(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients_are_those_of_torch(form, size, memory_format):
    images, height, width = size
    maps = random(images, 3, height, width).to(memory_format=memory_format)
    weight, cotangent = random(5, 3, 3, 3, seed=1), random(images, 5, height, width, seed=2)

    found = value_and_gradients(form, maps, weight, cotangent)

    for ours, expected in zip(found, value_and_gradients(direct, maps, weight, cotangent), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_gradients_are_those_of_finite_differences(form):
    maps, weight = random(2, 2, 3, 5).requires_grad_(), random(3, 2, 3, 3, seed=1).requires_grad_()

    assert gradcheck(form, (maps, weight))
    assert gradgradcheck(form, (maps, weight))


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_argument_needs_no_gradient(form, frozen):
    inputs = [random(2, 3, 4, 4), random(5, 3, 3, 3, seed=1)]
    inputs[1 - frozen].requires_grad_()

    form(*inputs).square().sum().backward()

    assert inputs[frozen].grad is None
    assert inputs[1 - frozen].grad is not None


@pytest.mark.parametrize("side", [4, 5, 8, 10])
def test_rounding_errors_in_bfloat16_are_those_of_torch(side):
    maps, weight = random(4, 320, side, side), random(320, 320, 3, 3, seed=1) / 50
    cotangent = random(4, 320, side, side, seed=2)
    maps, weight, cotangent = (values.bfloat16() for values in (maps, weight, cotangent))
    exact = value_and_gradients(direct, maps.double(), weight.double(), cotangent.double())

    ours = value_and_gradients(convolve_columns, maps, weight, cotangent)
    theirs = value_and_gradients(direct, maps, weight, cotangent)

    for found, plain, expected in zip(ours, theirs, exact, strict=True):
        assert relative_error(found, expected) < 1.1 * relative_error(plain, expected)


def test_rounding_errors_in_float32_are_a_few_units_of_the_last_place():
    """With the points 0, +-1 and +-2 they are 3e-6, twice as large."""
    maps = F.leaky_relu(random(40, 320, 8, 8), 0.1).float()
    weight, cotangent = random(320, 320, 3, 3, seed=1).float() / 50, random(40, 320, 8, 8, seed=2).float()
    exact = value_and_gradients(direct, maps.double(), weight.double(), cotangent.double())

    found = value_and_gradients(convolve_winograd, maps, weight, cotangent)

    assert max(relative_error(*pair) for pair in zip(found, exact, strict=True)) < 2e-6


def test_threads_share_the_images():
    inputs = random(5, 8, 6, 6, dtype=torch.float32), random(8, 8, 3, 3, dtype=torch.float32)
    cotangent, threads = inputs[0], torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(value_and_gradients(convolve_winograd, *inputs, cotangent))
    finally:
        torch.set_num_threads(threads)

    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(several, one, rtol=1e-6, atol=1e-5)


def test_the_same_inputs_give_the_same_bits(form):
    inputs = random(6, 32, 4, 4, dtype=torch.float32), random(32, 32, 3, 3, dtype=torch.float32)

    first, second = (value_and_gradients(form, *inputs, inputs[0]) for _ in range(2))

    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("dtype", "images", "channels", "side", "expected"),
    [
        (torch.bfloat16, 1, 640, 4, "columns"),
        (torch.bfloat16, 1, 320, 8, "columns"),
        (torch.bfloat16, 1, 640, 10, "columns"),
        (torch.bfloat16, 1, 640, 11, "direct"),
        (torch.bfloat16, 1, 160, 8, "direct"),
        (torch.float32, 24, 640, 4, "winograd"),
        (torch.float32, 23, 640, 4, "direct"),
        (torch.float32, 6, 160, 5, "winograd"),
        (torch.float32, 99, 159, 16, "direct"),
        (torch.float64, 99, 640, 4, "direct"),
        (torch.float16, 99, 640, 4, "direct"),
    ],
)
def test_form_by_size(dtype, images, channels, side, expected):
    maps = torch.empty(images, channels, side, side, dtype=dtype)
    weight = torch.empty(channels, channels, 3, 3, dtype=dtype)

    assert form_of(maps, weight) == expected


@pytest.fixture(params=[torch.bfloat16, torch.float32])
def dtype(request):
    """One that takes columns, one that takes Winograd's form."""
    return request.param


@pytest.fixture
def layer(dtype):
    torch.manual_seed(0)
    return Convolution(320, 320).to(dtype)


@pytest.fixture
def maps(dtype):
    return random(24, 320, 4, 4, dtype=dtype)


def test_a_layer_takes_the_form(layer, maps, dtype):
    expected = {torch.bfloat16: "_ColumnsBackward", torch.float32: "_WinogradBackward"}

    assert type(layer(maps).grad_fn).__name__ == expected[dtype]


def test_autocast_takes_the_form_and_keeps_the_weights_gradient_in_float32():
    layer = Convolution(320, 320)

    with torch.autocast("cpu", torch.bfloat16):
        out = layer(random(2, 320, 4, 4, dtype=torch.float32))
    out.sum().backward()

    assert type(out.grad_fn).__name__ == "_ColumnsBackward"
    assert out.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32


def test_the_form_can_be_switched_off(maps, dtype):
    layer = Convolution(320, 320, by_size=False).to(dtype)

    assert torch.equal(layer(maps), direct(maps, layer.weight))
    assert type(layer(maps).grad_fn).__name__ == "ConvolutionBackward0"


def test_resnet12_can_be_computed_with_the_convolutions_of_torch():
    by_size, plain = ResNet12(32), ResNet12(32, convolutions="direct")

    assert {m.by_size for m in by_size.modules() if isinstance(m, Convolution)} == {True}
    assert {m.by_size for m in plain.modules() if isinstance(m, Convolution)} == {False}
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in by_size.named_parameters()]


def test_vectorized_maps_take_the_convolution_of_torch(layer, maps):
    out = torch.func.vmap(layer)(torch.stack([maps, 2 * maps]))

    torch.testing.assert_close(out[1], direct(2 * maps, layer.weight), rtol=0.02, atol=0.02)


def test_forward_derivatives_are_those_of_torch(layer, maps):
    with forward_ad.dual_level():
        out = layer(forward_ad.make_dual(maps, 3 * maps))
        tangent = forward_ad.unpack_dual(out).tangent

    assert torch.equal(tangent, direct(3 * maps, layer.weight))
    _, by_func = torch.func.jvp(layer, (maps,), (3 * maps,))
    assert torch.equal(by_func, tangent)


def test_exported_graphs_hold_the_convolution_of_torch(layer, maps):
    exported = torch.export.export(layer, (maps,))

    called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert called == ["aten.conv2d.default"]


def test_traced_graphs_hold_the_convolution_of_torch(layer, maps):
    traced = torch.jit.trace(layer, (maps,))

    assert "aten::_convolution" in str(traced.inlined_graph)
    assert "Columns" not in str(traced.inlined_graph)
    assert "Winograd" not in str(traced.inlined_graph)


def test_operations_that_are_counted_are_those_of_torch(layer, maps):
    with FlopCounterMode(display=False) as counter:
        layer(maps)

    assert counter.get_total_flops() == 2 * maps.numel() * 320 * 9


def test_other_devices_take_the_convolution_of_torch(layer, dtype):
    out = layer.to("meta")(torch.empty(24, 320, 4, 4, dtype=dtype, device="meta"))

    assert type(out.grad_fn).__name__ == "ConvolutionBackward0"


def test_a_layer_is_a_convolution_with_the_parameters_of_torch():
    torch.manual_seed(0)
    ours = Convolution(3, 4)
    torch.manual_seed(0)
    theirs = nn.Conv2d(3, 4, 3, padding=1, bias=False)

    assert torch.equal(ours.state_dict()["weight"], theirs.state_dict()["weight"])
    assert torch.equal(ours(torch.ones(1, 3, 5, 5)), theirs(torch.ones(1, 3, 5, 5)))
