"""numba kernels over ranges of Gaussians: projection onto the screen, and its gradient.

The formulas are those of `torch_projection` and `torch_reference`, written out per splat; see there for their meaning.
A homography's nine entries are the rows x (0-2), y (3-5) and w (6-8) of `Discs.pixel_from_disc`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from genfusion_ns.raster.numba.layout import HELPER, KERNEL, SLOT


@njit(**HELPER)
def _axes(quat):
    """Rotation matrix of a quaternion, row by row, and one over the quaternion's norm; that is 0 where the quaternion
    has no direction."""
    real = quat.dtype.type
    one, two = real(1), real(2)
    squared = quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3]
    inverse = one / math.sqrt(squared) if (squared > real(0)) and (squared < real(math.inf)) else real(0)
    w, x, y, z = quat[0] * inverse, quat[1] * inverse, quat[2] * inverse, quat[3] * inverse
    matrix = (
        one - two * (y * y + z * z),
        two * (x * y - w * z),
        two * (x * z + w * y),
        two * (x * y + w * z),
        one - two * (x * x + z * z),
        two * (y * z - w * x),
        two * (x * z - w * y),
        two * (y * z + w * x),
        one - two * (x * x + y * y),
    )
    return matrix, inverse


@njit(**HELPER)
def _fill_homography(h, mean, scale, axes, view):
    """Write the homography of a splat into `h` [9]."""
    R, t, fx, fy, cx, cy = view.rotation, view.translation, view.fx, view.fy, view.cx, view.cy
    for column in range(2):
        size = scale[column]
        a, b, c = axes[column] * size, axes[3 + column] * size, axes[6 + column] * size
        z = R[2, 0] * a + R[2, 1] * b + R[2, 2] * c
        h[column] = fx * (R[0, 0] * a + R[0, 1] * b + R[0, 2] * c) + cx * z
        h[3 + column] = fy * (R[1, 0] * a + R[1, 1] * b + R[1, 2] * c) + cy * z
        h[6 + column] = z
    z = R[2, 0] * mean[0] + R[2, 1] * mean[1] + R[2, 2] * mean[2] + t[2]
    h[2] = fx * (R[0, 0] * mean[0] + R[0, 1] * mean[1] + R[0, 2] * mean[2] + t[0]) + cx * z
    h[5] = fy * (R[1, 0] * mean[0] + R[1, 1] * mean[1] + R[1, 2] * mean[2] + t[1]) + cy * z
    h[8] = z


@njit(**HELPER)
def _centre_and_radius(h, limits):
    """Centre (x, y) of the bounding box and the screen radius; not finite where the projection is not."""
    real = h.dtype.type
    norm = h[6] * h[6] + h[7] * h[7] - h[8] * h[8]
    f = real(1) / norm
    x = f * (h[0] * h[6] + h[1] * h[7] - h[2] * h[8])
    y = f * (h[3] * h[6] + h[4] * h[7] - h[5] * h[8])
    extent_x = x * x - f * (h[0] * h[0] + h[1] * h[1] - h[2] * h[2])
    extent_y = y * y - f * (h[3] * h[3] + h[4] * h[4] - h[5] * h[5])
    if not math.isfinite(extent_x + extent_y):
        return x, y, real(math.nan)
    extent = max(extent_x, extent_y, limits.radius_squared_min)
    return x, y, min(np.ceil(limits.radius_sigmas * math.sqrt(extent)), limits.radius_max)


@njit(**HELPER)
def _fill_record(record, h, normal_x, normal_y, normal_z, x, y, opacity):
    """Write what the tile kernels need, all but the colour."""
    real = record.dtype.type
    ox, oy = h[2] / h[8], h[5] / h[8]
    # The rows as seen from the projected centre; their third entries vanish.
    ux, uy = h[0] - ox * h[6], h[1] - ox * h[7]
    vx, vy = h[3] - oy * h[6], h[4] - oy * h[7]
    record[0], record[1] = ox, oy
    record[2], record[3], record[4] = vy * h[8], -vx * h[8], vx * h[7] - vy * h[6]
    record[5], record[6], record[7] = -uy * h[8], ux * h[8], uy * h[6] - ux * h[7]
    record[8] = ux * vy - uy * vx
    record[9], record[10], record[11] = x, y, opacity
    record[12], record[13], record[14] = real(0), real(0), real(0)
    record[15], record[16], record[17], record[18] = h[8], normal_x, normal_y, normal_z


@njit(**HELPER)
def _fill_box(box, h, x, y, radius, opacity, width, height, limits):
    """Write the pixels [x0, x1) x [y0, y1) outside of which the splat's alpha is below the cut, or which gsplat's tiles
    leave out. Returns the number of tiles that they touch."""
    real = h.dtype.type
    if not opacity >= limits.alpha_min:
        return 0
    # alpha >= cut means rho <= 2 ln(opacity / cut); the small additions keep rounding on the safe side.
    level = math.log(opacity / limits.alpha_min) + real(1e-3)
    reach = math.sqrt(real(2) * level / limits.low_pass) + real(0.01)
    low_x, high_x, low_y, high_y = x - reach, x + reach, y - reach, y + reach
    square = real(2) * level
    norm = square * (h[6] * h[6] + h[7] * h[7]) - h[8] * h[8]
    if norm < real(-1e-3) * h[8] * h[8]:
        # The bounding box at that many sigmas, from the projected centre, where nothing large cancels.
        f = square / norm
        ox, oy = h[2] / h[8], h[5] / h[8]
        ux, uy, vx, vy = h[0] - ox * h[6], h[1] - ox * h[7], h[3] - oy * h[6], h[4] - oy * h[7]
        mid_x, mid_y = f * (ux * h[6] + uy * h[7]), f * (vx * h[6] + vy * h[7])
        half_x = math.sqrt(max(mid_x * mid_x - f * (ux * ux + uy * uy), real(0))) * real(1.001) + real(0.01)
        half_y = math.sqrt(max(mid_y * mid_y - f * (vx * vx + vy * vy), real(0))) * real(1.001) + real(0.01)
        low_x, high_x = min(low_x, ox + mid_x - half_x), max(high_x, ox + mid_x + half_x)
        low_y, high_y = min(low_y, oy + mid_y - half_y), max(high_y, oy + mid_y + half_y)
    else:  # the disc reaches the camera plane: its image has no end
        low_x, high_x, low_y, high_y = real(0), real(width), real(0), real(height)
    tile, half = real(16), real(0.5)
    left, right = np.floor((x - radius) / tile) * tile, np.ceil((x + radius) / tile) * tile
    top, bottom = np.floor((y - radius) / tile) * tile, np.ceil((y + radius) / tile) * tile
    box[0] = int(max(left, np.ceil(low_x - half), real(0)))
    box[1] = int(min(right, np.floor(high_x + half), real(width)))
    box[2] = int(max(top, np.ceil(low_y - half), real(0)))
    box[3] = int(min(bottom, np.floor(high_y + half), real(height)))
    if box[0] >= box[1] or box[2] >= box[3]:
        return 0
    return ((box[1] + 15) // 16 - box[0] // 16) * ((box[3] + 15) // 16 - box[2] // 16)


@njit(**KERNEL)
def project_forward(
    first, last, means, quats, scales, opacities, view, limits, homographies, records, boxes, radii, tile_counts
):
    """Project splats [first, last): fills `homographies` [N, 9], `records` [N, RECORD], `boxes` [N, 4], `radii` [N] and
    `tile_counts` [N] (the tiles in which a splat can be seen; 0 = nowhere)."""
    real = means.dtype.type
    eye, width, height = view.eye, view.width, view.height
    for g in range(first, last):
        radii[g] = 0
        tile_counts[g] = 0
        mean, h = means[g], homographies[g]
        axes, inverse = _axes(quats[g])
        if not (inverse > real(0) and math.isfinite(opacities[g])):
            continue
        _fill_homography(h, mean, scales[g], axes, view)
        if not (h[8] > view.near and h[8] < view.far):
            continue
        x, y, radius = _centre_and_radius(h, limits)
        if not (
            x + radius > real(0) and x - radius < real(width) and y + radius > real(0) and y - radius < real(height)
        ):
            continue
        away = axes[2] * (mean[0] - eye[0]) + axes[5] * (mean[1] - eye[1]) + axes[8] * (mean[2] - eye[2])
        sign = real(1) if away < real(0) else real(-1)
        _fill_record(records[g], h, sign * axes[2], sign * axes[5], sign * axes[8], x, y, opacities[g])
        radii[g] = int(radius)
        tile_counts[g] = _fill_box(boxes[g], h, x, y, radius, opacities[g], width, height, limits)


@njit(**HELPER)
def _homography_gradient(grad, s, h, record):
    """Write dL/dh into `grad` [9], given the sums `s` of the splat's slots (see `SLOT`).

    With u = x - ox w and v = y - oy w the hit map's columns are v x w, w x u and u x v; a . (b x c) is the same under
    cyclic shifts, which gives each factor's gradient.
    """
    ox, oy = record[0], record[1]
    u0, u1 = h[0] - ox * h[6], h[1] - ox * h[7]
    v0, v1 = h[3] - oy * h[6], h[4] - oy * h[7]
    w0, w1, w2 = h[6], h[7], h[8]
    # u += grad_py x w + v x grad_1
    grad[0] = s[4] * w2 - s[5] * w1 + v1 * s[8]
    grad[1] = s[5] * w0 - s[3] * w2 - v0 * s[8]
    grad[2] = s[3] * w1 - s[4] * w0 + v0 * s[7] - v1 * s[6]
    # v += w x grad_px + grad_1 x u
    grad[3] = w1 * s[2] - w2 * s[1] - s[8] * u1
    grad[4] = w2 * s[0] - w0 * s[2] + s[8] * u0
    grad[5] = w0 * s[1] - w1 * s[0] + s[6] * u1 - s[7] * u0
    # w += grad_px x v + u x grad_py, and what u and v take from w
    grad[6] = -s[2] * v1 + u1 * s[5] - ox * grad[0] - oy * grad[3]
    grad[7] = s[2] * v0 - u0 * s[5] - ox * grad[1] - oy * grad[4]
    grad[8] = s[0] * v1 - s[1] * v0 + u0 * s[4] - u1 * s[3] - ox * grad[2] - oy * grad[5]


@njit(**HELPER)
def _add_centre_gradient(grad, h, record, to_x, to_y):
    """Add to dL/dh what comes through the bounding box's centre, whose gradient is (to_x, to_y)."""
    real = grad.dtype.type
    x, y, two = record[9], record[10], real(2)
    f = real(1) / (h[6] * h[6] + h[7] * h[7] - h[8] * h[8])
    for column in range(3):
        signed = -f if column == 2 else f
        w = h[6 + column]
        grad[column] += signed * to_x * w
        grad[3 + column] += signed * to_y * w
        grad[6 + column] += signed * (to_x * (h[column] - two * x * w) + to_y * (h[3 + column] - two * y * w))


@njit(**HELPER)
def _quaternion_gradient(out, g, quat, inverse):
    """Write dL/dquat into `out` [4], given dL/dmatrix `g` [9], row by row."""
    real = out.dtype.type
    two = real(2)
    w, x, y, z = quat[0] * inverse, quat[1] * inverse, quat[2] * inverse, quat[3] * inverse
    to_w = two * (x * (g[7] - g[5]) + y * (g[2] - g[6]) + z * (g[3] - g[1]))
    to_x = two * (w * (g[7] - g[5]) + y * (g[1] + g[3]) + z * (g[2] + g[6]) - two * x * (g[4] + g[8]))
    to_y = two * (w * (g[2] - g[6]) + x * (g[1] + g[3]) + z * (g[5] + g[7]) - two * y * (g[0] + g[8]))
    to_z = two * (w * (g[3] - g[1]) + x * (g[2] + g[6]) + y * (g[5] + g[7]) - two * z * (g[0] + g[4]))
    # The quaternion is normalised first: only what is across it passes.
    along = to_w * w + to_x * x + to_y * y + to_z * z
    out[0], out[1] = (to_w - along * w) * inverse, (to_x - along * x) * inverse
    out[2], out[3] = (to_y - along * y) * inverse, (to_z - along * z) * inverse


@njit(**KERNEL)
def project_backward(
    first,
    last,
    quats,
    scales,
    view,
    homographies,
    records,
    starts,
    slots,
    sums,
    to_means,
    to_quats,
    to_scales,
    to_opacities,
    to_densify,
):
    """Sum the gradient slots `starts[g]` to `starts[g + 1]` of splats [first, last) into `sums` [N, SLOT], and carry
    them on to the parameters (`to_*`). A splat without slots gets zeros."""
    real = quats.dtype.type
    grad, to_axes = np.empty(9, quats.dtype), np.empty(9, quats.dtype)
    R, fx, fy, cx, cy = view.rotation, view.fx, view.fy, view.cx, view.cy
    for g in range(first, last):
        s = sums[g]
        s[:] = real(0)
        to_scales[g, 2] = real(0)
        if starts[g] == starts[g + 1]:
            to_means[g, :], to_quats[g, :], to_scales[g, :] = real(0), real(0), real(0)
            to_opacities[g], to_densify[g, 0], to_densify[g, 1] = real(0), real(0), real(0)
            continue
        for slot in range(starts[g], starts[g + 1]):
            for i in range(SLOT):
                s[i] += slots[slot, i]
        h, record, scale = homographies[g], records[g], scales[g]
        axes, inverse = _axes(quats[g])
        _homography_gradient(grad, s, h, record)
        to_densify[g, 0], to_densify[g, 1] = grad[2] * h[8], grad[5] * h[8]
        _add_centre_gradient(grad, h, record, s[9], s[10])
        grad[8] += s[15]
        to_opacities[g] = s[11]
        facing = real(1) if record[16] * axes[2] + record[17] * axes[5] + record[18] * axes[8] > real(0) else real(-1)
        for column in range(3):
            # Back through the intrinsics, then to world axes.
            a, b = fx * grad[column], fy * grad[3 + column]
            c = grad[6 + column] + cx * grad[column] + cy * grad[3 + column]
            for row in range(3):
                to_column = R[0, row] * a + R[1, row] * b + R[2, row] * c
                if column == 2:
                    to_means[g, row] = to_column
                    to_axes[3 * row + 2] = facing * s[16 + row]
                else:
                    to_axes[3 * row + column] = to_column
        for column in range(2):
            total = real(0)
            for row in range(3):
                total += to_axes[3 * row + column] * axes[3 * row + column]
                to_axes[3 * row + column] *= scale[column]
            to_scales[g, column] = total
        _quaternion_gradient(to_quats[g], to_axes, quats[g], inverse)
