"""numba kernels over ranges of Gaussians: spherical harmonics to colour, and its gradient.

The basis is that of `torch_projection.spherical_harmonics`, the numbers included.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from genfusion_ns.raster.numba.layout import HELPER, KERNEL

_SH0 = 0.28209479177387814
_SH1 = 0.4886025119029199
_SH2A, _SH2B, _SH2C = 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
_SH3A, _SH3B, _SH3C = 0.5900435899266435, 2.890611442640554, 0.4570457994644658
_SH3D, _SH3E = 0.3731763325901154, 1.445305721320277


@njit(**HELPER)
def _fill_basis(basis, bands, x, y, z):
    """Write the first `bands` (1, 4, 9 or 16) basis functions of the unit direction (x, y, z)."""
    real = basis.dtype.type
    one, three, five = real(1), real(3), real(5)
    basis[0] = real(_SH0)
    if bands > 1:
        basis[1], basis[2], basis[3] = -real(_SH1) * y, real(_SH1) * z, -real(_SH1) * x
    if bands > 4:
        basis[4], basis[5], basis[7] = real(_SH2A) * x * y, -real(_SH2A) * y * z, -real(_SH2A) * x * z
        basis[6], basis[8] = real(_SH2B) * (three * z * z - one), real(_SH2C) * (x * x - y * y)
    if bands > 9:
        basis[9] = -real(_SH3A) * y * (three * x * x - y * y)
        basis[10] = real(_SH3B) * x * y * z
        basis[11] = -real(_SH3C) * y * (five * z * z - one)
        basis[12] = real(_SH3D) * z * (five * z * z - three)
        basis[13] = -real(_SH3C) * x * (five * z * z - one)
        basis[14] = real(_SH3E) * z * (x * x - y * y)
        basis[15] = -real(_SH3A) * x * (x * x - three * y * y)


@njit(**HELPER)
def _direction_gradient(d, bands, x, y, z):
    """dL/d(x, y, z), given dL/dbasis `d`."""
    real = d.dtype.type
    two, three, five = real(2), real(3), real(5)
    to_x, to_y, to_z = real(0), real(0), real(0)
    if bands > 1:
        to_x, to_y, to_z = -real(_SH1) * d[3], -real(_SH1) * d[1], real(_SH1) * d[2]
    if bands > 4:
        a, b, c = real(_SH2A), real(_SH2B), real(_SH2C)
        to_x += a * (y * d[4] - z * d[7]) + two * c * x * d[8]
        to_y += a * (x * d[4] - z * d[5]) - two * c * y * d[8]
        to_z += -a * (y * d[5] + x * d[7]) + two * three * b * z * d[6]
    if bands > 9:
        a, b, c = real(_SH3A), real(_SH3B), real(_SH3C)
        e, f = real(_SH3D), real(_SH3E)
        xx_yy, zz = x * x - y * y, five * z * z
        to_x += -two * three * a * x * y * d[9] - three * a * xx_yy * d[15]
        to_x += b * y * z * d[10] - c * (zz - real(1)) * d[13] + two * f * x * z * d[14]
        to_y += -three * a * xx_yy * d[9] + two * three * a * x * y * d[15]
        to_y += b * x * z * d[10] - c * (zz - real(1)) * d[11] - two * f * y * z * d[14]
        to_z += b * x * y * d[10] - two * five * c * z * (y * d[11] + x * d[13])
        to_z += three * e * (zz - real(1)) * d[12] + f * xx_yy * d[14]
    return to_x, to_y, to_z


@njit(**KERNEL)
def shade_forward(first, last, means, colors, bands, eye, records, radii, tile_counts):
    """Write the colours of splats [first, last) into their records. `colors` [N, K] holds SH coefficients, channel
    fastest, or, with `bands` 0, plain channels, of which the first three go there. A colour that is not finite hides
    its splat."""
    real = means.dtype.type
    basis = np.empty(16, means.dtype)
    for g in range(first, last):
        if radii[g] == 0:
            continue
        color = colors[g]
        total = real(0)
        if bands == 0:
            for c in range(len(color)):
                total += color[c] * real(0)
            for c in range(min(len(color), 3)):
                records[g, 12 + c] = color[c]
        else:
            x, y, z = means[g, 0] - eye[0], means[g, 1] - eye[1], means[g, 2] - eye[2]
            inverse = real(1) / math.sqrt(x * x + y * y + z * z)
            _fill_basis(basis, bands, x * inverse, y * inverse, z * inverse)
            red, green, blue = real(0.5), real(0.5), real(0.5)
            for k in range(bands):
                red += basis[k] * color[3 * k]
                green += basis[k] * color[3 * k + 1]
                blue += basis[k] * color[3 * k + 2]
            total = (red + green + blue) * real(0)
            records[g, 12] = max(red, real(0))
            records[g, 13] = max(green, real(0))
            records[g, 14] = max(blue, real(0))
        if total != real(0):  # NaN or infinity times 0 is NaN
            radii[g] = 0
            tile_counts[g] = 0


@njit(**KERNEL)
def shade_backward(first, last, means, colors, bands, eye, records, starts, sums, more_slots, to_means, to_colors):
    """Carry the colour gradients of splats [first, last), in `sums` [N, SLOT] and for further channels in `more_slots`,
    on to `to_colors`, and add what comes through the viewing direction to `to_means`."""
    real = means.dtype.type
    basis, to_basis = np.empty(16, means.dtype), np.empty(16, means.dtype)
    for g in range(first, last):
        out = to_colors[g]
        if starts[g] == starts[g + 1]:
            out[:] = real(0)
            continue
        if bands == 0:
            for c in range(min(len(out), 3)):
                out[c] = sums[g, 12 + c]
            out[3:] = real(0)
            for slot in range(starts[g], starts[g + 1]):
                for c in range(3, len(out)):
                    out[c] += more_slots[slot, c - 3]
            continue
        color = colors[g]
        x, y, z = means[g, 0] - eye[0], means[g, 1] - eye[1], means[g, 2] - eye[2]
        inverse = real(1) / math.sqrt(x * x + y * y + z * z)
        x, y, z = x * inverse, y * inverse, z * inverse
        _fill_basis(basis, bands, x, y, z)
        red = sums[g, 12] if records[g, 12] > real(0) else real(0)
        green = sums[g, 13] if records[g, 13] > real(0) else real(0)
        blue = sums[g, 14] if records[g, 14] > real(0) else real(0)
        for k in range(bands):
            out[3 * k], out[3 * k + 1], out[3 * k + 2] = basis[k] * red, basis[k] * green, basis[k] * blue
            to_basis[k] = red * color[3 * k] + green * color[3 * k + 1] + blue * color[3 * k + 2]
        out[3 * bands :] = real(0)
        a, b, c = _direction_gradient(to_basis, bands, x, y, z)
        along = a * x + b * y + c * z
        to_means[g, 0] += (a - along * x) * inverse
        to_means[g, 1] += (b - along * y) * inverse
        to_means[g, 2] += (c - along * z) * inverse
