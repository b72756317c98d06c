"""numba kernels: which splats each tile holds, front to back."""

from __future__ import annotations

import numpy as np
from numba import njit

from genfusion_ns.raster.numba.layout import KERNEL

_DIGIT_BITS = 11


@njit(**KERNEL)
def sort_by_depth(depth_bits, tile_counts):
    """Numbers of the splats that some tile holds, nearest first, equal depths in their order. `depth_bits` [N] are the
    bit patterns of the depths, which are positive and therefore sort like unsigned integers (radix sort)."""
    count = 0
    for g in range(len(tile_counts)):
        if tile_counts[g] > 0:
            count += 1
    order, other = np.empty(count, np.int32), np.empty(count, np.int32)
    keys, other_keys = np.empty(count, depth_bits.dtype), np.empty(count, depth_bits.dtype)
    count = 0
    for g in range(len(tile_counts)):
        if tile_counts[g] > 0:
            order[count] = g
            keys[count] = depth_bits[g]
            count += 1
    mask = (1 << _DIGIT_BITS) - 1
    bits = 8 * depth_bits.itemsize
    for shift in range(0, bits, _DIGIT_BITS):
        places = np.zeros(mask + 2, np.int64)
        for i in range(count):
            places[((keys[i] >> shift) & mask) + 1] += 1
        for digit in range(mask + 1):
            places[digit + 1] += places[digit]
        for i in range(count):
            digit = (keys[i] >> shift) & mask
            place = places[digit]
            places[digit] = place + 1
            other[place] = order[i]
            other_keys[place] = keys[i]
        order, other = other, order
        keys, other_keys = other_keys, keys
    return order


@njit(**KERNEL)
def bin_splats(order, boxes, tile_counts, across, down):
    """Lists of pairs (splat, tile).

    Returns:
        offsets [tiles + 1]: where each tile's list begins; splats [M]: the lists, front to back; slots [M]: where the
        backward pass writes a pair's gradient, so that each splat's pairs lie side by side; starts [N + 1]: where each
        splat's slots begin.
    """
    count = len(tile_counts)
    starts = np.empty(count + 1, np.int64)
    starts[0] = 0
    offsets = np.zeros(across * down + 1, np.int64)
    for g in range(count):
        starts[g + 1] = starts[g] + tile_counts[g]
        if tile_counts[g] > 0:
            for row in range(boxes[g, 2] >> 4, (boxes[g, 3] + 15) >> 4):
                for column in range(boxes[g, 0] >> 4, (boxes[g, 1] + 15) >> 4):
                    offsets[row * across + column + 1] += 1
    for tile in range(across * down):
        offsets[tile + 1] += offsets[tile]
    places = offsets[:-1].copy()
    splats, slots = np.empty(starts[count], np.int32), np.empty(starts[count], np.int32)
    for i in range(len(order)):
        g = order[i]
        slot = starts[g]
        for row in range(boxes[g, 2] >> 4, (boxes[g, 3] + 15) >> 4):
            for column in range(boxes[g, 0] >> 4, (boxes[g, 1] + 15) >> 4):
                place = places[row * across + column]
                places[row * across + column] = place + 1
                splats[place] = g
                slots[place] = slot
                slot += 1
    return offsets, splats, slots, starts
