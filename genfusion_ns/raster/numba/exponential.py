"""exp(-x) that vectorises: LLVM calls the library's exp for one pixel at a time."""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload


def exp_minus(x):
    """exp(-x) for x >= 0, inside kernels."""
    return math.exp(-x)


@overload(exp_minus, inline="always")
def _compiled(x):
    if x != types.float32:
        return lambda x: math.exp(-x)

    def vectorises(x):
        # A minimax fit of exp(x / 8) on [-1, 0], 2.4e-8 relative, to the eighth power. Beyond 8 it stays at exp(-8),
        # which is fainter than any cut.
        y = min(x, np.float32(8)) * np.float32(-0.125)
        p = np.float32(4.11768264e-02) + y * (np.float32(7.61402409e-03) + y * np.float32(8.35845930e-04))
        p = np.float32(4.99969015e-01) + y * (np.float32(1.66490286e-01) + y * p)
        p = np.float32(9.99999976e-01) + y * (np.float32(9.99997903e-01) + y * p)
        p = p * p
        p = p * p
        return p * p

    return vectorises
