"""numba kernels over ranges of tiles: compositing, front to back, and its gradient, back to front.

The formulas are those of `torch_reference`. A tile's 16 x 16 pixels live in planes of 256 floats, row by row, all in
one flat buffer, so that LLVM sees constant distances between planes and vectorises over pixels. For the same reason
there are selects instead of branches, pixel numbers are unsigned (signed ones may count from the end), and a splat is
weighed on whole rows of the tile.

A pixel is finished when one more splat would push its transmittance below the limit; that splat's rank in the tile's
list is its stop. While compositing, a finished pixel carries its transmittance with a minus sign.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from genfusion_ns.raster.numba.exponential import exp_minus
from genfusion_ns.raster.numba.layout import HELPER, KERNEL

# Sums over pixels may be reordered; without this LLVM leaves the backward loop scalar.
_HELPER_SUMS = {**HELPER, "fastmath": {"contract", "nsz", "reassoc"}}
_KERNEL_SUMS = {**KERNEL, "fastmath": {"contract", "nsz", "reassoc"}}

_PIXELS = 256
# Where the planes begin. Both passes: transmittance, weight of the current splat, rank of the stop.
_T, _WEIGHT, _STOP = (np.uint64(i * _PIXELS) for i in range(3))
# Sums of weight times colour, depth and normal, and the distortion. Backward: the loss's gradients by them.
_RED, _GREEN, _BLUE, _DEPTH, _NX, _NY, _NZ, _DISTORTION = (np.uint64(i * _PIXELS) for i in range(3, 11))
# Forward only: rank of the median splat.
_MEDIAN = np.uint64(11 * _PIXELS)
_FORWARD_PLANES = 12
# Backward only: pixel's column and row; loss gradient times what lies behind the current splat; weighted depth in front
# of it minus that behind; 1 + final transmittance; gradient through colour channels beyond the third.
_X, _Y, _BEHIND, _BALANCE, _ONE_PLUS_FINAL, _MORE = (np.uint64(i * _PIXELS) for i in range(11, 17))
_BACKWARD_PLANES = 17


@njit(**HELPER)
def _falloff(hit_u, hit_v, hit_w, on_screen, one, half):
    """u = hit_u / hit_w, v = hit_v / hit_w, 1 / hit_w, whether they decide or the low-pass, and exp(-rho / 2)."""
    inverse = one / hit_w
    u, v = hit_u * inverse, hit_v * inverse
    on_disc = u * u + v * v
    disc_decides = on_disc <= on_screen
    return u, v, inverse, disc_decides, exp_minus(half * (on_disc if disc_decides else on_screen))


@njit(**HELPER)
def _frame(tile, width, height):
    """A tile's left and top, and how many of its columns and rows lie in the image."""
    left, top = tile % ((width + 15) // 16) * 16, tile // ((width + 15) // 16) * 16
    return left, top, min(16, width - left), min(16, height - top)


@njit(**HELPER)
def _add_splat(planes, more_colors, record, rank, left, top, first_row, last_row, limits):
    """Composite one splat over rows [first_row, last_row) of the tile. Returns the range of rows that took of it."""
    real = planes.dtype.type
    zero, half, one, two = real(0), real(0.5), real(1), real(2)
    ux, vx, wx, uy, vy, wy, w1 = record[2], record[3], record[4], record[5], record[6], record[7], record[8]
    opacity, red, green, blue = record[11], record[12], record[13], record[14]
    depth, nx, ny, nz = record[15], record[16], record[17], record[18]
    x0, y0 = real(left) + half - record[0], real(top) + half - record[1]
    centre_x, centre_y = real(left) + half - record[9], real(top) + half - record[10]
    first_taken, last_taken = 16, 0
    for row in range(first_row, last_row):
        any_taken = False
        dy, ey = y0 + real(row), centre_y + real(row)
        row_u, row_v, row_w, row_e = uy * dy, vy * dy, wy * dy + w1, ey * ey
        for column in range(16):
            q = np.uint64(row * 16 + column)
            dx, ex = x0 + real(column), centre_x + real(column)
            hit_w = wx * dx + row_w
            on_screen = limits.low_pass * (ex * ex + row_e)
            falloff = _falloff(ux * dx + row_u, vx * dx + row_v, hit_w, on_screen, one, half)[4]
            alpha = min(opacity * falloff, limits.alpha_max)
            before = planes[_T + q]
            after = before - before * alpha
            seen = (alpha >= limits.alpha_min) & (before > zero) & (abs(hit_w) > limits.grazing)
            taken = seen & (after > limits.transmittance_min)
            any_taken |= taken
            weight = alpha * before if taken else zero
            in_front = planes[_DEPTH + q]
            planes[_T + q] = after if taken else (-before if seen else before)
            if more_colors is not None:
                planes[_WEIGHT + q] = weight
            planes[_STOP + q] = rank if (seen & (after <= limits.transmittance_min)) else planes[_STOP + q]
            planes[_MEDIAN + q] = rank if (taken & (before > half)) else planes[_MEDIAN + q]
            planes[_RED + q] += weight * red
            planes[_GREEN + q] += weight * green
            planes[_BLUE + q] += weight * blue
            planes[_DEPTH + q] = in_front + weight * depth
            planes[_NX + q] += weight * nx
            planes[_NY + q] += weight * ny
            planes[_NZ + q] += weight * nz
            planes[_DISTORTION + q] += two * weight * (depth - depth * before - in_front)
        if any_taken:
            first_taken, last_taken = min(first_taken, row), row + 1
    return first_taken, last_taken


@njit(**HELPER)
def _start_forward(planes, more, columns, rows):
    """Empty pixels; those beyond the image are finished from the start."""
    real = planes.dtype.type
    planes[:] = real(0)
    more[:] = real(0)
    for pixel in range(_PIXELS):
        q = np.uint64(pixel)
        inside = pixel % 16 < columns and pixel // 16 < rows
        planes[_T + q], planes[_STOP + q], planes[_MEDIAN + q] = real(inside), real(1e9), real(-1)


@njit(**HELPER)
def _all_finished(planes):
    brightest = planes[_T]
    for pixel in range(_PIXELS):
        brightest = max(brightest, planes[_T + np.uint64(pixel)])
    return brightest <= planes.dtype.type(0)


@njit(**HELPER)
def _write_tile(planes, more, left, top, columns, rows, run, records, background, maps, progress):
    """Put a finished tile into the images; `run` are its splats."""
    real = planes.dtype.type
    channels = maps.color.shape[2]
    for y in range(rows):
        for x in range(columns):
            i, j, q = top + y, left + x, np.uint64(y * 16 + x)
            transmittance = abs(planes[_T + q])
            alpha = real(1) - transmittance
            for c in range(channels):
                total = planes[_RED + np.uint64(c * _PIXELS) + q] if c < 3 else more[c - 3, q]
                maps.color[i, j, c] = total + transmittance * background[c]
            maps.alpha[i, j, 0] = alpha
            maps.depth[i, j, 0] = planes[_DEPTH + q] / alpha if alpha > real(0) else real(0)
            for c in range(3):
                maps.normal[i, j, c] = planes[_NX + np.uint64(c * _PIXELS) + q]
            maps.distortion[i, j, 0] = planes[_DISTORTION + q]
            median = int(planes[_MEDIAN + q])
            maps.median_depth[i, j, 0] = records[run[median], 15] if median >= 0 else real(0)
            progress.medians[i, j] = median
            progress.stops[i, j] = int(planes[_STOP + q])


@njit(**KERNEL)
def composite_forward(first, last, splats, more_colors, lists, background, limits, maps, progress):
    """Composite tiles [first, last) into `maps` and `progress`. `more_colors` [N, E] are the channels beyond the third,
    None where there are none."""
    real = splats.records.dtype.type
    height, width = maps.alpha.shape[0], maps.alpha.shape[1]
    extra = 0 if more_colors is None else more_colors.shape[1]
    planes = np.empty(_FORWARD_PLANES * _PIXELS, splats.records.dtype)
    more = np.empty((extra, _PIXELS), splats.records.dtype)
    for tile in range(first, last):
        left, top, columns, rows = _frame(tile, width, height)
        _start_forward(planes, more, columns, rows)
        run = lists.splats[lists.offsets[tile] : lists.offsets[tile + 1]]
        rows_taken = progress.rows[lists.offsets[tile] : lists.offsets[tile + 1]]
        rows_taken[:] = 0
        for rank in range(len(run)):
            if rank % 16 == 15 and _all_finished(planes):
                break
            g = run[rank]
            first_row, last_row = max(splats.boxes[g, 2] - top, 0), min(splats.boxes[g, 3] - top, 16)
            rows_taken[rank, 0], rows_taken[rank, 1] = _add_splat(
                planes, more_colors, splats.records[g], real(rank), left, top, first_row, last_row, limits
            )
            if more_colors is not None:
                for c in range(extra):
                    value = more_colors[g, c]
                    for pixel in range(first_row * 16, last_row * 16):
                        more[c, pixel] += planes[_WEIGHT + np.uint64(pixel)] * value
        _write_tile(planes, more, left, top, columns, rows, run, splats.records, background, maps, progress)


@njit(**_HELPER_SUMS)
def _differentiate_splat(planes, more_colors, record, slot, rank, left, top, first_row, last_row, limits):
    """Take one splat off rows [first_row, last_row) of the tile, and write its gradients (see `SLOT`)."""
    real = planes.dtype.type
    zero, half, one, two = real(0), real(0.5), real(1), real(2)
    ux, vx, wx, uy, vy, wy, w1 = record[2], record[3], record[4], record[5], record[6], record[7], record[8]
    opacity, red, green, blue = record[11], record[12], record[13], record[14]
    depth, nx, ny, nz = record[15], record[16], record[17], record[18]
    x0, y0 = real(left) + half - record[0], real(top) + half - record[1]
    centre_x, centre_y = real(left) + half - record[9], real(top) + half - record[10]
    to_red = to_green = to_blue = to_depth = to_nx = to_ny = to_nz = zero
    to_ux = to_vx = to_wx = to_uy = to_vy = to_wy = to_u1 = to_v1 = to_w1 = zero
    to_centre_x = to_centre_y = to_opacity = zero
    for pixel in range(first_row * 16, last_row * 16):
        q = np.uint64(pixel)
        dx, dy = x0 + planes[_X + q], y0 + planes[_Y + q]
        ex, ey = centre_x + planes[_X + q], centre_y + planes[_Y + q]
        hit_w = wx * dx + wy * dy + w1
        on_screen = limits.low_pass * (ex * ex + ey * ey)
        u, v, inverse, disc_decides, falloff = _falloff(
            ux * dx + uy * dy, vx * dx + vy * dy, hit_w, on_screen, one, half
        )
        uncapped = opacity * falloff
        alpha = min(uncapped, limits.alpha_max)
        taken = (alpha >= limits.alpha_min) & (planes[_STOP + q] > rank) & (abs(hit_w) > limits.grazing)
        alpha = alpha if taken else zero
        grow = one / (one - alpha)
        after = planes[_T + q]
        before = after * grow
        weight = alpha * before
        planes[_T + q] = before
        # dL/dweight: through the sums, and through the distortion: 2 (z (W_front - W_behind) - (D_front - D_behind)).
        to_weight = red * planes[_RED + q] + green * planes[_GREEN + q] + blue * planes[_BLUE + q]
        if more_colors is not None:
            to_weight += planes[_MORE + q]
            planes[_WEIGHT + q] = weight
        to_weight += depth * planes[_DEPTH + q] + nx * planes[_NX + q] + ny * planes[_NY + q] + nz * planes[_NZ + q]
        spread, balance = planes[_DISTORTION + q], planes[_BALANCE + q]
        to_weight += spread * (depth * (planes[_ONE_PLUS_FINAL + q] - two * after) - balance)
        planes[_BALANCE + q] = balance - two * weight * depth
        behind = planes[_BEHIND + q]
        planes[_BEHIND + q] = behind + weight * to_weight
        to_alpha = before * to_weight - behind * grow
        to_alpha = to_alpha if (taken & (uncapped <= limits.alpha_max)) else zero
        to_red += weight * planes[_RED + q]
        to_green += weight * planes[_GREEN + q]
        to_blue += weight * planes[_BLUE + q]
        to_depth += weight * (planes[_DEPTH + q] + spread * (planes[_ONE_PLUS_FINAL + q] - before - after))
        to_nx += weight * planes[_NX + q]
        to_ny += weight * planes[_NY + q]
        to_nz += weight * planes[_NZ + q]
        to_opacity += falloff * to_alpha
        # rho / 2 is half u^2 + v^2, or else pixels^2 times half the low-pass.
        to_rho = -uncapped * to_alpha
        u, v = u if disc_decides else zero, v if disc_decides else zero
        through = to_rho * inverse if disc_decides else zero
        to_hit_u, to_hit_v = through * u, through * v
        to_hit_w = -(to_hit_u * u + to_hit_v * v)
        to_ux += to_hit_u * dx
        to_vx += to_hit_v * dx
        to_wx += to_hit_w * dx
        to_uy += to_hit_u * dy
        to_vy += to_hit_v * dy
        to_wy += to_hit_w * dy
        to_u1 += to_hit_u
        to_v1 += to_hit_v
        to_w1 += to_hit_w
        to_screen = zero if disc_decides else to_rho
        to_centre_x -= to_screen * ex
        to_centre_y -= to_screen * ey
    slot[0], slot[1], slot[2], slot[3], slot[4], slot[5] = to_ux, to_vx, to_wx, to_uy, to_vy, to_wy
    slot[6], slot[7], slot[8] = to_u1, to_v1, to_w1
    slot[9], slot[10], slot[11] = limits.low_pass * to_centre_x, limits.low_pass * to_centre_y, to_opacity
    slot[12], slot[13], slot[14] = to_red, to_green, to_blue
    slot[15], slot[16], slot[17], slot[18], slot[19] = to_depth, to_nx, to_ny, to_nz, zero


@njit(**HELPER)
def _start_backward(planes, more, left, top, columns, rows, background, maps, grads, progress, to_median):
    """Load a tile's state after its last splat, and the loss's gradients; `to_median` [run] gets the median depth's."""
    real = planes.dtype.type
    channels = maps.color.shape[2]
    planes[:] = real(0)
    more[:] = real(0)
    to_median[:] = real(0)
    for pixel in range(_PIXELS):
        q = np.uint64(pixel)
        planes[_T + q], planes[_STOP + q] = real(1), real(-1)
        planes[_X + q], planes[_Y + q] = real(pixel % 16), real(pixel // 16)
    for y in range(rows):
        for x in range(columns):
            i, j, q = top + y, left + x, np.uint64(y * 16 + x)
            alpha = maps.alpha[i, j, 0]
            transmittance, to_alpha = real(1) - alpha, grads.alpha[i, j, 0]
            for c in range(channels):
                if c < 3:
                    planes[_RED + np.uint64(c * _PIXELS) + q] = grads.color[i, j, c]
                else:
                    more[c - 3, q] = grads.color[i, j, c]
                to_alpha -= grads.color[i, j, c] * background[c]
            if alpha > real(0):
                planes[_DEPTH + q] = grads.depth[i, j, 0] / alpha
                to_alpha -= planes[_DEPTH + q] * maps.depth[i, j, 0]
            for c in range(3):
                planes[_NX + np.uint64(c * _PIXELS) + q] = grads.normal[i, j, c]
            planes[_DISTORTION + q] = real(2) * grads.distortion[i, j, 0]
            planes[_T + q] = transmittance
            planes[_ONE_PLUS_FINAL + q] = real(1) + transmittance
            planes[_BALANCE + q] = maps.depth[i, j, 0] * alpha
            # alpha = 1 - T, as if light of colour -dL/dalpha came from behind everything.
            planes[_BEHIND + q] = -transmittance * to_alpha
            planes[_STOP + q] = real(progress.stops[i, j])
            if progress.medians[i, j] >= 0:
                to_median[progress.medians[i, j]] += grads.median_depth[i, j, 0]


@njit(**_KERNEL_SUMS)
def composite_backward(
    first, last, splats, more_colors, lists, background, limits, maps, grads, progress, slots, more_slots
):
    """Gradients of tiles [first, last), given those of their `maps`, into `slots` [M, SLOT] and, for the colour
    channels beyond the third, `more_slots` [M, E]."""
    real = splats.records.dtype.type
    height, width = maps.alpha.shape[0], maps.alpha.shape[1]
    extra = 0 if more_colors is None else more_colors.shape[1]
    planes = np.empty(_BACKWARD_PLANES * _PIXELS, splats.records.dtype)
    more = np.empty((extra, _PIXELS), splats.records.dtype)
    for tile in range(first, last):
        left, top, columns, rows = _frame(tile, width, height)
        begin, end = lists.offsets[tile], lists.offsets[tile + 1]
        to_median = np.empty(end - begin, splats.records.dtype)
        _start_backward(planes, more, left, top, columns, rows, background, maps, grads, progress, to_median)
        for rank in range(end - begin - 1, -1, -1):
            g, slot = lists.splats[begin + rank], lists.slots[begin + rank]
            first_row, last_row = progress.rows[begin + rank]
            if first_row >= last_row:
                slots[slot] = real(0)
                more_slots[slot] = real(0)
                continue
            first_pixel, last_pixel = first_row * 16, last_row * 16
            if more_colors is not None:
                for pixel in range(first_pixel, last_pixel):
                    total = real(0)
                    for c in range(extra):
                        total += more_colors[g, c] * more[c, pixel]
                    planes[_MORE + np.uint64(pixel)] = total
            _differentiate_splat(
                planes, more_colors, splats.records[g], slots[slot], real(rank), left, top, first_row, last_row, limits
            )
            slots[slot, 15] += to_median[rank]
            if more_colors is not None:
                for c in range(extra):
                    total = real(0)
                    for pixel in range(first_pixel, last_pixel):
                        total += planes[_WEIGHT + np.uint64(pixel)] * more[c, pixel]
                    more_slots[slot, c] = total
