"""3x3 convolution with a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3), forward and backward, on a CPU.

A tile of 4 x 4 output pixels depends on a window of 6 x 6 input pixels. Window, kernel and result are polynomials in
two variables; at 6 x 6 points their values are multiplied instead of convolved:

    tile = A^T [(G kernel G^T) * (B^T window B)] A

summed over the input channels, which is one matrix product for each point. In one dimension, with the points 0, +-a,
+-b and infinity, p = a^2 b^2 and s = a^2 + b^2:

    B^T d:  p d0 - s d2 + d4,   (d4 - b^2 d2) +- a (d3 - b^2 d1),   (d4 - a^2 d2) +- b (d3 - a^2 d1),   p d1 - s d3 + d5
    G k:    (k0 + x k1 + x^2 k2) / product of (x - y) over the other points y;   for infinity k2
    A^T m:  the sums of x^i m_x, i = 0 .. 3;   infinity counts in the last

With a = 5/8 and b = 3/2 the rounding error in float32 is less than half of that with the usual 1 and 2. It is one to
two times that of torch's convolution for outputs and gradients of the maps, and two to five times for gradients of the
weights (docs/benchmarks/convolutions.md). The derivatives are the exact adjoints.

In a whole ResNet-12, larger errors of gradients, up to 1e-2, come from near ties of activations and pooling, which
rounding decides, with torch's convolution as well: of 8 draws, 6 with torch's and 5 with this one had an error above
1e-4. In a draw without ties (identity activation, mean pooling) the largest were 3e-6 and 5e-6.

Transforms of a few images at a time, to stay in the second-level cache, were slower (64 to 320 channels), and so were
transforms as matrix products of torch.

Shapes: N images, C x H x W (input) and D x H x W (output) maps, R tiles. The kernels read channels-last maps.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016; on the choice of points:
Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", ACM
TOMS 2020.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from fewshot.backbones.compiled_loops import array_of
from fewshot.backbones.direct_gradients import direct_gradients

A, B = 5 / 8, 3 / 2
TILE, WINDOW = 4, 6
N_POINTS = WINDOW**2


def convolve_winograd(maps: Tensor, weight: Tensor) -> Tensor:
    """Convolve maps (N, C, H, W) with weights (D, C, 3, 3), padded by one pixel; return (N, D, H, W).

    Second derivatives are those of torch's convolution.
    """
    out: Tensor = _Winograd.apply(maps, weight)
    return out


def count_tiles(maps: Tensor) -> int:
    """Return the number R of tiles that cover maps (N, C, H, W)."""
    images, _, height, width = maps.shape
    return images * -(-height // TILE) * -(-width // TILE)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        kernels = _kernels_at_points(weight)
        products = torch.bmm(_windows_at_points(maps), kernels)
        ctx.save_for_backward(maps, weight, kernels)
        return _transformed(_tiles_from_points, products, _empty_maps(maps, len(weight)))

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None]:
        maps, weight, kernels = ctx.saved_tensors
        of_maps, of_weight = ctx.needs_input_grad
        if torch.is_grad_enabled():  # the gradients will be differentiated
            return direct_gradients(cotangent, maps, weight, of_maps=of_maps, of_weight=of_weight)
        of_products = _transformed(_tiles_from_points_adjoint, _channels_last(cotangent), _empty_points(cotangent))
        return (
            _gradient_of_maps(of_products, kernels, maps) if of_maps else None,
            _gradient_of_weight(of_products, maps) if of_weight else None,
        )


def _gradient_of_maps(of_products: Tensor, kernels: Tensor, maps: Tensor) -> Tensor:
    of_windows = torch.bmm(of_products, kernels.transpose(1, 2))
    return _transformed(_windows_at_points_adjoint, of_windows, _empty_maps(maps, maps.shape[1]))


def _gradient_of_weight(of_products: Tensor, maps: Tensor) -> Tensor:
    of_kernels = torch.bmm(of_products.transpose(1, 2), _windows_at_points(maps))
    gradient = _kernel_transform(maps.dtype).T @ of_kernels.view(N_POINTS, -1)
    return gradient.view(3, 3, of_products.shape[2], -1).permute(2, 3, 0, 1)


def _kernels_at_points(weight: Tensor) -> Tensor:
    """Return G kernel G^T, (36, C, D)."""
    values = _kernel_transform(weight.dtype) @ weight.permute(2, 3, 1, 0).reshape(9, -1)
    return values.view(N_POINTS, weight.shape[1], -1)


@cache
def _kernel_transform(dtype: torch.dtype) -> Tensor:
    """Return the Kronecker product of G with itself, (36, 9)."""
    points = (0, A, -A, B, -B)
    rows = [[x**i / np.prod([x - y for y in points if y != x]) for i in range(3)] for x in points]
    g = torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)
    return torch.kron(g, g).to(dtype)


def _windows_at_points(maps: Tensor) -> Tensor:
    """Return B^T window B, (36, R, C)."""
    return _transformed(_windows_at_points_kernel, _channels_last(maps), _empty_points(maps))


def _transformed(kernel: Callable[..., None], source: Tensor, out: Tensor) -> Tensor:
    """Let a kernel fill `out` from `source`; as many threads as torch uses share the images."""
    maps = source if source.ndim == 4 else out
    constants = np.array([A, B], dtype=array_of(maps).dtype)
    images, threads = len(maps), torch.get_num_threads()
    bounds = np.linspace(0, images, min(threads, images) + 1).astype(int)

    def share(first: int, last: int) -> None:
        kernel(array_of(source), array_of(out), constants, first, last)

    if threads == 1:
        share(0, images)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(share, bounds[:-1], bounds[1:]))
    return out


def _empty_maps(like: Tensor, channels: int) -> Tensor:
    images, _, height, width = like.shape
    return like.new_empty(images, height, width, channels).permute(0, 3, 1, 2)


def _empty_points(maps: Tensor) -> Tensor:
    """Return room for values at the points of all tiles of maps, (36, R, C)."""
    return maps.new_empty(N_POINTS, count_tiles(maps), maps.shape[1])


def _channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


# Kernels: (source, out, [a, b], first image, last image + 1). The transforms of a row are written into their loops,
# because calls with arrays count references.

_compiled = numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
_written_out = numba.njit(inline="always")


@_compiled
def _pixel(maps, image, y, x, outside):  # type: ignore[no-untyped-def]
    """Return the channels of a pixel, or `outside`."""
    if y < 0 or x < 0 or y >= maps.shape[1] or x >= maps.shape[2]:
        return outside
    return maps[image, y, x]


@_written_out
def _b_transposed(d0, d1, d2, d3, d4, d5, o0, o1, o2, o3, o4, o5, a, b):  # type: ignore[no-untyped-def]
    aa, bb = a * a, b * b
    p, s = aa * bb, aa + bb
    for c in range(len(d0)):
        x0, x1, x2, x3, x4, x5 = d0[c], d1[c], d2[c], d3[c], d4[c], d5[c]
        even, odd = x4 - bb * x2, a * (x3 - bb * x1)
        even_b, odd_b = x4 - aa * x2, b * (x3 - aa * x1)
        o0[c] = p * x0 - s * x2 + x4
        o1[c] = even + odd
        o2[c] = even - odd
        o3[c] = even_b + odd_b
        o4[c] = even_b - odd_b
        o5[c] = p * x1 - s * x3 + x5


@_written_out
def _b(m0, m1, m2, m3, m4, m5, o0, o1, o2, o3, o4, o5, a, b):  # type: ignore[no-untyped-def]
    """Add B m to the outputs."""
    aa, bb = a * a, b * b
    p, s = aa * bb, aa + bb
    for c in range(len(m0)):
        x0, x5 = m0[c], m5[c]
        even, odd = m1[c] + m2[c], a * (m1[c] - m2[c])
        even_b, odd_b = m3[c] + m4[c], b * (m3[c] - m4[c])
        o0[c] += p * x0
        o1[c] += p * x5 - bb * odd - aa * odd_b
        o2[c] -= s * x0 + bb * even + aa * even_b
        o3[c] += odd + odd_b - s * x5
        o4[c] += x0 + even + even_b
        o5[c] += x5


@_written_out
def _a_transposed(m0, m1, m2, m3, m4, m5, o0, o1, o2, o3, a, b):  # type: ignore[no-untyped-def]
    aa, bb = a * a, b * b
    for c in range(len(m0)):
        even, odd = m1[c] + m2[c], a * (m1[c] - m2[c])
        even_b, odd_b = m3[c] + m4[c], b * (m3[c] - m4[c])
        o0[c] = m0[c] + even + even_b
        o1[c] = odd + odd_b
        o2[c] = aa * even + bb * even_b
        o3[c] = aa * odd + bb * odd_b + m5[c]


@_written_out
def _a(y0, y1, y2, y3, o0, o1, o2, o3, o4, o5, a, b):  # type: ignore[no-untyped-def]
    aa, bb = a * a, b * b
    for c in range(len(y0)):
        x0, x1, x2, x3 = y0[c], y1[c], y2[c], y3[c]
        even, odd = x0 + aa * x2, a * (x1 + aa * x3)
        even_b, odd_b = x0 + bb * x2, b * (x1 + bb * x3)
        o0[c] = x0
        o1[c] = even + odd
        o2[c] = even - odd
        o3[c] = even_b + odd_b
        o4[c] = even_b - odd_b
        o5[c] = x3


@_compiled
def _windows_at_points_kernel(maps, out, constants, first, last) -> None:  # type: ignore[no-untyped-def]
    a, b = constants
    _, height, width, channels = maps.shape
    rows, columns = (height + 3) // 4, (width + 3) // 4
    zero = np.zeros(channels, maps.dtype)
    t = np.zeros((6, 6, channels), maps.dtype)
    for image in range(first, last):
        for row in range(rows):
            for column in range(columns):
                x = 4 * column - 1
                for i in range(6):
                    y = 4 * row - 1 + i
                    _b_transposed(
                        _pixel(maps, image, y, x, zero), _pixel(maps, image, y, x + 1, zero),
                        _pixel(maps, image, y, x + 2, zero), _pixel(maps, image, y, x + 3, zero),
                        _pixel(maps, image, y, x + 4, zero), _pixel(maps, image, y, x + 5, zero),
                        t[i, 0], t[i, 1], t[i, 2], t[i, 3], t[i, 4], t[i, 5], a, b,
                    )  # fmt: skip
                r = (image * rows + row) * columns + column
                for j in range(6):
                    _b_transposed(
                        t[0, j], t[1, j], t[2, j], t[3, j], t[4, j], t[5, j],
                        out[j, r], out[6 + j, r], out[12 + j, r], out[18 + j, r], out[24 + j, r], out[30 + j, r], a, b,
                    )  # fmt: skip


@_compiled
def _windows_at_points_adjoint(values, out, constants, first, last) -> None:  # type: ignore[no-untyped-def]
    a, b = constants
    _, height, width, channels = out.shape
    rows, columns = (height + 3) // 4, (width + 3) // 4
    t = np.zeros((6, 6, channels), out.dtype)
    unused = np.zeros(channels, out.dtype)
    for image in range(first, last):
        out[image] = 0
        for row in range(rows):
            for column in range(columns):
                r = (image * rows + row) * columns + column
                t[:] = 0
                for j in range(6):
                    _b(
                        values[j, r], values[6 + j, r], values[12 + j, r],
                        values[18 + j, r], values[24 + j, r], values[30 + j, r],
                        t[0, j], t[1, j], t[2, j], t[3, j], t[4, j], t[5, j], a, b,
                    )  # fmt: skip
                x = 4 * column - 1
                for i in range(6):
                    y = 4 * row - 1 + i
                    if 0 <= y < height:
                        _b(
                            t[i, 0], t[i, 1], t[i, 2], t[i, 3], t[i, 4], t[i, 5],
                            _pixel(out, image, y, x, unused), _pixel(out, image, y, x + 1, unused),
                            _pixel(out, image, y, x + 2, unused), _pixel(out, image, y, x + 3, unused),
                            _pixel(out, image, y, x + 4, unused), _pixel(out, image, y, x + 5, unused), a, b,
                        )  # fmt: skip


@_compiled
def _tiles_from_points(values, out, constants, first, last) -> None:  # type: ignore[no-untyped-def]
    a, b = constants
    _, height, width, channels = out.shape
    rows, columns = (height + 3) // 4, (width + 3) // 4
    t = np.zeros((4, 6, channels), out.dtype)
    unused = np.zeros(channels, out.dtype)
    for image in range(first, last):
        for row in range(rows):
            for column in range(columns):
                r = (image * rows + row) * columns + column
                for j in range(6):
                    _a_transposed(
                        values[j, r], values[6 + j, r], values[12 + j, r],
                        values[18 + j, r], values[24 + j, r], values[30 + j, r],
                        t[0, j], t[1, j], t[2, j], t[3, j], a, b,
                    )  # fmt: skip
                x = 4 * column
                for i in range(min(4, height - 4 * row)):
                    y = 4 * row + i
                    _a_transposed(
                        t[i, 0], t[i, 1], t[i, 2], t[i, 3], t[i, 4], t[i, 5],
                        out[image, y, x], _pixel(out, image, y, x + 1, unused),
                        _pixel(out, image, y, x + 2, unused), _pixel(out, image, y, x + 3, unused), a, b,
                    )  # fmt: skip


@_compiled
def _tiles_from_points_adjoint(maps, out, constants, first, last) -> None:  # type: ignore[no-untyped-def]
    a, b = constants
    _, height, width, channels = maps.shape
    rows, columns = (height + 3) // 4, (width + 3) // 4
    zero = np.zeros(channels, maps.dtype)
    t = np.zeros((4, 6, channels), maps.dtype)
    for image in range(first, last):
        for row in range(rows):
            for column in range(columns):
                x = 4 * column
                for i in range(4):
                    y = 4 * row + i
                    _a(
                        _pixel(maps, image, y, x, zero), _pixel(maps, image, y, x + 1, zero),
                        _pixel(maps, image, y, x + 2, zero), _pixel(maps, image, y, x + 3, zero),
                        t[i, 0], t[i, 1], t[i, 2], t[i, 3], t[i, 4], t[i, 5], a, b,
                    )  # fmt: skip
                r = (image * rows + row) * columns + column
                for j in range(6):
                    _a(
                        t[0, j], t[1, j], t[2, j], t[3, j],
                        out[j, r], out[6 + j, r], out[12 + j, r], out[18 + j, r], out[24 + j, r], out[30 + j, r], a, b,
                    )  # fmt: skip
