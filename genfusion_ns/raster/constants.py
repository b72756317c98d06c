"""Numbers that every backend shares: those of gsplat 1.4.0, read off its 2DGS kernels.

The pinned gsplat caps alpha at 0.999 and takes one radius of three sigmas for both axes (other implementations, and
later gsplats, use 0.99 and 3.33 sigmas per axis). The CPU backends follow the pinned version, so that a splat trained
on one machine looks the same on another.
"""

from __future__ import annotations

TILE = 16
"""Side of a tile in pixels. Splats are cut at the borders of the tiles that their radius reaches."""
ALPHA_MAX = 0.999
"""Opacity of one splat in one pixel never exceeds this, so that the transmittance stays invertible."""
ALPHA_MIN = 1.0 / 255.0
"""Contributions fainter than this are skipped."""
TRANSMITTANCE_MIN = 1e-4
"""A pixel is finished before its transmittance would fall to this."""
LOW_PASS = 2.0
"""Screen-space low-pass: rho = LOW_PASS * squared pixel distance, a Gaussian of variance 1/2 pixel^2."""
RADIUS_SIGMAS = 3.0
"""Radius of a splat on the screen, in half sides of the bounding box of its one-sigma ellipse."""
RADIUS_SQUARED_MIN = 1e-4
"""Floor of the squared half side of that box; also what a disc that crosses the camera plane gets."""
RADIUS_MAX = 1e9
"""Ceiling of the radius in pixels, so that it fits an int32."""
GRAZING = 1e-30
"""A ray whose homogeneous coordinate on the disc's plane is smaller than this runs along the disc and misses it.
gsplat tests for exactly zero, and can then divide by a denormal number."""
SH_DEGREE_MAX = 3
"""Highest degree of spherical harmonics that the CPU backends evaluate."""
