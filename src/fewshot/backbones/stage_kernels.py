"""The loops of `pooled_stage` over channels-last maps on a CPU, with its formulas and letters.

Shapes: maps (N, H, W, C), pooled maps (N, h, w, C) with h, w = H // 2, W // 2; everything of a channel is (C,).

The innermost loops run over channels and become vector instructions where there are enough of them, from about 24. Sums
are accumulated in the precision of p within an image, and in float64 over images. y and y' may be bfloat16 (see
`compiled_loops`), except in `second_derivative`.
"""

import numpy as np

from fewshot.backbones.compiled_loops import compiled, first_beyond_cells, number, stored


@compiled
def forward(y, weight, bias, epsilon, slope, p, choice, out, mean, inverse):  # type: ignore[no-untyped-def]
    """Write p, the pixel (0..3, in reading order) that each of its values is, the stage's output, m and r."""
    _pool_and_moments(y, np.where(weight >= 0, 1, -1).astype(mean.dtype), p, choice, mean, inverse)
    inverse[:] = 1 / np.sqrt(inverse + epsilon)
    scale = weight * inverse
    shift = bias - mean * scale
    below_zero = p.dtype.type(slope)
    n, height, width, channels = p.shape
    for i in range(n):
        for v in range(height):
            for x in range(width):
                for c in range(channels):
                    z = scale[c] * p[i, v, x, c] + shift[c]
                    out[i, v, x, c] = z if z > 0 else below_zero * z


@compiled
def first_derivative(of_out, y, p, choice, out, weight, mean, inverse, slope, of_z, of_y, total, product):  # type: ignore[no-untyped-def]
    """Write z', y', b' and S."""
    zero = np.zeros_like(mean)
    _of_line(of_out, zero + 1, p, zero, zero, out, slope, of_z)
    _sums(of_z, p, mean, total, product)
    pixels = y.size // len(mean)
    scale = weight * inverse
    times_y = -scale * inverse * inverse * product / pixels
    constant = -scale * total / pixels - times_y * mean
    _combine(y, zero, y, times_y, constant, of_z, choice, scale, of_y)


@compiled
def second_derivative(  # type: ignore[no-untyped-def]
    u, y, p, choice, out, of_z, weight, mean, inverse, slope, total, product, of_out, of_y, of_weight
):
    """Write the derivatives of L with respect to out', y and w."""
    pixels = y.size // len(mean)
    u_total, u_product = np.empty_like(mean), np.empty_like(mean)
    _sums(u, y, mean, u_total, u_product)
    taken, overlap = np.empty_like(p), np.empty_like(mean)
    _take(u, choice, of_z, taken, overlap)
    scale, squared = weight * inverse, inverse * inverse
    curvature = squared * product * u_product / pixels
    of_weight[:] = inverse * (overlap - total * u_total / pixels - curvature)
    of_inverse = weight * (overlap - total * u_total / pixels - 3 * curvature)
    times_u, times_p = -scale * squared * product / pixels, -scale * squared * u_product / pixels
    times_y = -squared * inverse * of_inverse / pixels
    constant = -(times_u * u_total + times_p * total) / pixels - times_y * mean
    _combine(u, times_u, y, times_y, constant, of_z, choice, times_p, of_y)
    _of_line(taken, scale, p, times_p, -scale * u_total / pixels - times_p * mean, out, slope, of_out)


@compiled
def _pool_and_moments(y, sign, p, choice, mean, variance):  # type: ignore[no-untyped-def]
    """Write the largest `sign * y` of each 2x2 cell, without the sign, its pixel, and the moments.

    The moments are computed from deviations from the first image's mean, so that a large mean costs no digits.
    """
    n, height, width, channels = y.shape
    near = np.zeros_like(mean)
    for i in range(min(n, 1)):  # an empty batch has no first image
        for v in range(height):
            for x in range(width):
                for c in range(channels):
                    near[c] += number(y[i, v, x, c])
    near /= mean.dtype.type(height * width)
    total, squares = np.zeros(channels), np.zeros(channels)
    image_total, image_squares = np.empty_like(near), np.empty_like(near)
    for i in range(n):
        image_total[:] = 0
        image_squares[:] = 0
        for v in range(height // 2):
            for x in range(width // 2):
                for c in range(channels):
                    s, d = sign[c], near[c]
                    y0, y1 = number(y[i, 2 * v, 2 * x, c]), number(y[i, 2 * v, 2 * x + 1, c])
                    y2, y3 = number(y[i, 2 * v + 1, 2 * x, c]), number(y[i, 2 * v + 1, 2 * x + 1, c])
                    best, pixel = s * y0, np.int32(0)
                    pixel, best = np.int32(1) if s * y1 > best else pixel, s * y1 if s * y1 > best else best
                    pixel, best = np.int32(2) if s * y2 > best else pixel, s * y2 if s * y2 > best else best
                    pixel, best = np.int32(3) if s * y3 > best else pixel, s * y3 if s * y3 > best else best
                    p[i, v, x, c] = s * best
                    choice[i, v, x, c] = np.uint8(pixel)
                    image_total[c] += ((y0 - d) + (y1 - d)) + ((y2 - d) + (y3 - d))
                    image_squares[c] += _square(y0 - d) + _square(y1 - d) + _square(y2 - d) + _square(y3 - d)
        for v in range(height):
            for x in range(first_beyond_cells(v, height, width), width):
                for c in range(channels):
                    image_total[c] += number(y[i, v, x, c]) - near[c]
                    image_squares[c] += _square(number(y[i, v, x, c]) - near[c])
        total += image_total
        squares += image_squares
    for c in range(channels):
        offset = total[c] / (n * height * width)
        mean[c] = near[c] + offset
        variance[c] = squares[c] / (n * height * width) - offset * offset


@compiled
def _square(value):  # type: ignore[no-untyped-def]
    return value * value


@compiled
def _sums(u, y, mean, total, product):  # type: ignore[no-untyped-def]
    """Write the sums of u and of u (y - mean)."""
    n, height, width, channels = y.shape
    sums, products = np.zeros(channels), np.zeros(channels)
    image_sum, image_product = np.empty_like(mean), np.empty_like(mean)
    for i in range(n):
        image_sum[:] = 0
        image_product[:] = 0
        for v in range(height):
            for x in range(width):
                for c in range(channels):
                    image_sum[c] += u[i, v, x, c]
                    image_product[c] += u[i, v, x, c] * (y[i, v, x, c] - mean[c])
        sums += image_sum
        products += image_product
    total[:] = sums
    product[:] = products


@compiled
def _take(u, choice, of_z, taken, overlap):  # type: ignore[no-untyped-def]
    """Write u at the selected pixels, and the sum of its products with z'."""
    n, height, width, channels = taken.shape
    sums, image_sum = np.zeros(channels), np.empty_like(overlap)
    for i in range(n):
        image_sum[:] = 0
        for v in range(height):
            for x in range(width):
                for c in range(channels):
                    pixel = np.int32(choice[i, v, x, c])
                    value = u[i, 2 * v, 2 * x, c]
                    value = u[i, 2 * v, 2 * x + 1, c] if pixel == 1 else value
                    value = u[i, 2 * v + 1, 2 * x, c] if pixel == 2 else value
                    value = u[i, 2 * v + 1, 2 * x + 1, c] if pixel == 3 else value
                    taken[i, v, x, c] = value
                    image_sum[c] += value * of_z[i, v, x, c]
        sums += image_sum
    overlap[:] = sums


@compiled
def _of_line(u, times_u, p, times_p, constant, out, slope, of_out):  # type: ignore[no-untyped-def]
    """Write times_u u + times_p p + constant, multiplied by the slope of the activation."""
    a, b, d = times_u.astype(p.dtype), times_p.astype(p.dtype), constant.astype(p.dtype)
    below_zero = p.dtype.type(slope)
    n, height, width, channels = out.shape
    for i in range(n):
        for v in range(height):
            for x in range(width):
                for c in range(channels):
                    value = a[c] * u[i, v, x, c] + b[c] * p[i, v, x, c] + d[c]
                    of_out[i, v, x, c] = value if out[i, v, x, c] > 0 else below_zero * value


@compiled
def _combine(u, times_u, y, times_y, constant, of_z, choice, times_z, of_y):  # type: ignore[no-untyped-def]
    """Write times_u u + times_y y + constant, plus times_z z' at the selected pixels."""
    a, b, d, e = (
        times_u.astype(of_z.dtype),
        times_y.astype(of_z.dtype),
        constant.astype(of_z.dtype),
        times_z.astype(of_z.dtype),
    )
    n, height, width, channels = y.shape
    zero = of_z.dtype.type(0)
    for i in range(n):
        for v in range(height // 2):
            for k in range(2):
                for x in range(width // 2):
                    for j in range(2):
                        for c in range(channels):
                            line = a[c] * number(u[i, 2 * v + k, 2 * x + j, c]) + d[c]
                            line += b[c] * number(y[i, 2 * v + k, 2 * x + j, c])
                            share = e[c] * of_z[i, v, x, c] if choice[i, v, x, c] == 2 * k + j else zero
                            of_y[i, 2 * v + k, 2 * x + j, c] = stored(line + share, of_y[i, 2 * v + k, 2 * x + j, c])
        for v in range(height):
            for x in range(first_beyond_cells(v, height, width), width):
                for c in range(channels):
                    line = a[c] * number(u[i, v, x, c]) + b[c] * number(y[i, v, x, c]) + d[c]
                    of_y[i, v, x, c] = stored(line, of_y[i, v, x, c])
