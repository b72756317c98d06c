"""What the numba kernels are told about a view, and how their working arrays are laid out.

Kernels are generic in the float type: they take it from their arrays and wrap every literal in it, since a bare
Python float would turn float32 arithmetic into float64.

numba's cache on disk knows a kernel by its own file. It does not notice a change in another file whose function or
constant was inlined, and would run stale code. Therefore kernels call only functions of their own file, and take the
shared constants as an argument (`Limits`). The layout below is the exception: whoever changes it must touch the kernel
files too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from genfusion_ns.cameras import Camera
from genfusion_ns.raster import constants

HELPER: dict[str, Any] = {
    # No ZeroDivisionError inside loops: it would keep LLVM from vectorising them.
    "error_model": "numpy",
    # Nothing that assumes finite numbers: validity tests rely on NaN comparing false.
    "fastmath": {"contract", "nsz"},
    # Calls would count references to every array that they are given, and hide the shapes of local ones.
    "forceinline": True,
}
"""Options of functions that kernels call."""
KERNEL: dict[str, Any] = {
    **HELPER,
    "forceinline": False,
    # The pool's threads run at the same time.
    "nogil": True,
    "cache": True,
}
"""Options of functions that Python calls."""


class View(NamedTuple):
    """A camera as scalars and small arrays of the kernels' float type."""

    rotation: Any
    """[3, 3] world to camera."""
    translation: Any
    """[3] world to camera."""
    eye: Any
    """[3] camera centre in the world."""
    fx: Any
    fy: Any
    cx: Any
    cy: Any
    near: Any
    far: Any
    width: int
    height: int


class Limits(NamedTuple):
    """The numbers of `constants`, in the kernels' float type."""

    alpha_max: Any
    alpha_min: Any
    transmittance_min: Any
    low_pass: Any
    radius_sigmas: Any
    radius_squared_min: Any
    radius_max: Any
    grazing: Any


def view_of(camera: Camera, near: float, far: float, real: type[np.floating]) -> View:
    """`camera` in the kernels' terms."""
    w2c, K = (matrix.detach().cpu().numpy().astype(real) for matrix in (camera.w2c, camera.K))
    rotation, translation = np.ascontiguousarray(w2c[:3, :3]), np.ascontiguousarray(w2c[:3, 3])
    lens, range_ = (K[0, 0], K[1, 1], K[0, 2], K[1, 2]), (real(near), real(far))
    return View(rotation, translation, -(rotation.T @ translation), *lens, *range_, camera.width, camera.height)


def limits_of(real: type[np.floating]) -> Limits:
    """The shared constants in the kernels' float type."""
    return Limits(*(real(getattr(constants, name.upper())) for name in Limits._fields))


class Splats(NamedTuple):
    """What the tile kernels read of N projected splats."""

    records: Any
    """[N, RECORD]."""
    boxes: Any
    """[N, 4] int32: pixels [x0, x1) x [y0, y1) that a splat can reach."""


class Lists(NamedTuple):
    """M pairs of splat and tile."""

    offsets: Any
    """[tiles + 1] int64: where each tile's pairs begin."""
    splats: Any
    """[M] int32: the splat of each pair; front to back within a tile."""
    slots: Any
    """[M] int32: where a pair's gradient is written, so that the pairs of one splat lie side by side."""
    starts: Any
    """[N + 1] int64: where each splat's slots begin."""


class Maps(NamedTuple):
    """Images, or the gradients of the loss with respect to them."""

    color: Any
    """[H, W, C]."""
    alpha: Any
    """[H, W, 1], like the following, except for the normal [H, W, 3]."""
    depth: Any
    median_depth: Any
    normal: Any
    distortion: Any


class Progress(NamedTuple):
    """How far compositing went, for the backward pass."""

    stops: Any
    """[H, W] int32: rank in the tile's list of the first splat that a pixel no longer took."""
    medians: Any
    """[H, W] int32: rank of the splat that gave the median depth; -1 = none."""
    rows: Any
    """[M, 2] int8: range of the tile's rows that took any of a pair's splat; empty where none did."""


RECORD = 20
"""Floats per splat that the tile kernels read: 0-1 projected centre (origin of the hit map), 2-4, 5-7, 8 hit map per
pixel in x, in y, and its constant third row, 9-10 centre of the bounding box, 11 opacity, 12-14 first three colour
channels, 15 depth, 16-18 normal; 19 is padding."""
SLOT = 20
"""Floats per pair of splat and tile that the backward kernel writes: gradients of the record's 2-7 (0-5), of the hit
map's constant (6-8), of the box centre (9-10), opacity (11), colour (12-14), depth (15) and normal (16-18)."""
