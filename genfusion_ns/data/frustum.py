"""Points sampled in the frusta of the training views, where measured points are too few.

A sample is a pixel of a training photo with its colour and a guessed depth. The guess is the depth of one of the
measured points nearest to that pixel, chosen at random with weight 1/distance^2, times log-normal jitter that grows
with the distance to it. Choosing, where the usual interpolation would average, keeps samples on surfaces: the mean
of a near and a far surface is a depth at which nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from genfusion_ns.data.colmap import Tracks
from genfusion_ns.data.views import (
    FloatArray,
    TrainView,
    ViewArrays,
    inside,
    photo_colours,
    to_pixels,
    to_rays,
    view_arrays,
)

NEIGHBOURS = 4
"""A sample takes the depth of one of this many measured points."""
JITTER = (0.02, 0.25)
"""Bounds of the standard deviation of a sample's log depth."""
# Roberts' R2 sequence: 1/g and 1/g^2 with g^3 = g + 1 spread points evenly over the unit square.
_R2 = np.array([0.7548776662466927, 0.5698402909980532])


@dataclass(frozen=True)
class Samples:
    """Sampled points."""

    xyz: FloatArray
    """[P, 3] positions in the world."""
    rgb: FloatArray
    """[P, 3] colours in [0, 255]."""
    blind_views: list[str]
    """Names of the views without any measured point, whose depths are guessed from the cameras alone."""


def complete_with_frustum_samples(
    views: Sequence[TrainView], xyz: FloatArray, tracks: Tracks | None, count: int, seed: int = 0
) -> Samples:
    """`count` points in the frusta of `views`, equally many per view, evenly spread over each image.

    Args:
        views: the training views.
        xyz: [P, 3] measured points in the views' world; may be empty.
        tracks: who of `views` saw which of them; None: every point that projects into a view counts as seen.
        count: how many points to sample.
        seed: seed of the random numbers.
    """
    rng = np.random.default_rng([seed, len(views), count])
    cameras = view_arrays(views)
    share = np.diff(np.linspace(0, count, len(views) + 1).round().astype(int))
    positions, colours, blind = [], [], []
    for v, view in enumerate(views):
        pixels = (rng.random(2) + np.arange(1, share[v] + 1)[:, None] * _R2) % 1.0 * cameras.size[v]
        known, depth = _known_depths(v, cameras, xyz, tracks)
        if len(known):
            guessed = _guess_depths(pixels, known, depth, rng)
        else:
            blind.append(view.name)
            near, far = depth_range(cameras.w2c)[v]
            guessed = np.exp(rng.uniform(np.log(near), np.log(far), len(pixels)))
        rays = np.concatenate([to_rays(pixels, cameras.K[v]), np.ones((len(pixels), 1))], axis=1)
        local = rays * guessed[:, None] - cameras.w2c[v, :3, 3]
        positions.append(local @ cameras.w2c[v, :3, :3])
        colours.append(photo_colours(view.image, pixels))
    return Samples(np.concatenate(positions), np.concatenate(colours), blind)


def depth_range(w2c: FloatArray) -> FloatArray:
    """[V, 2] nearest and farthest plausible depth of each view, from the cameras alone.

    Where the optical axes turn around a common point in front of all cameras, a third to three times its depth;
    where they run parallel (a forward-facing capture), 2 to 20 times the largest distance between two cameras.
    """
    focus = focus_point(w2c)
    if focus is not None:
        depth = w2c[:, 2, :3] @ focus + w2c[:, 2, 3]
        return depth[:, None] * np.array([1.0 / 3.0, 3.0])
    centres = -np.einsum("vji,vj->vi", w2c[:, :3, :3], w2c[:, :3, 3])
    baseline = float(np.linalg.norm(centres[:, None] - centres[None], axis=-1).max())
    # Without any baseline no scale is better than another.
    return np.tile((baseline or 1.0) * np.array([2.0, 20.0]), (len(w2c), 1))


def focus_point(w2c: FloatArray) -> FloatArray | None:
    """[3] the point nearest to all optical axes in least squares; None where no two axes differ by 10 degrees, or the
    point lies behind a camera."""
    axes = w2c[:, 2, :3]
    if (axes @ axes.T).min() > np.cos(np.radians(10.0)):
        return None
    centres = -np.einsum("vji,vj->vi", w2c[:, :3, :3], w2c[:, :3, 3])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    focus = np.linalg.lstsq(across.sum(axis=0), np.einsum("vij,vj->i", across, centres), rcond=None)[0]
    depth = axes @ focus + w2c[:, 2, 3]
    return focus if (depth > 0).all() else None


def _known_depths(v: int, cameras: ViewArrays, xyz: FloatArray, tracks: Tracks | None) -> tuple[FloatArray, FloatArray]:
    """Pixels [n, 2] and depths [n] of measured points in view v: those it observes, else those in its frustum."""
    seen = xyz if tracks is None else xyz[np.unique(tracks.point[tracks.image == v])]
    for points in (seen, xyz):
        local = points @ cameras.w2c[v, :3, :3].T + cameras.w2c[v, :3, 3]
        local = local[local[:, 2] > 0]
        pixels = to_pixels(local[:, :2] / local[:, 2:], cameras.K[v])
        visible = inside(pixels, cameras.size[v])
        if visible.any():
            return pixels[visible], local[visible, 2]
    return np.zeros((0, 2)), np.zeros(0)


def _guess_depths(pixels: FloatArray, known: FloatArray, depth: FloatArray, rng: np.random.Generator) -> NDArray:
    """Depths [n] at pixels [n, 2] from known depths; see the top of the file."""
    tree = KDTree(known)
    k = min(NEIGHBOURS, len(known))
    distance, neighbour = (np.asarray(found).reshape(-1, k) for found in tree.query(pixels, k=k))
    weight = np.cumsum(1.0 / np.maximum(distance, 1.0) ** 2, axis=1)
    pick = (rng.random(len(pixels))[:, None] * weight[:, -1:] > weight).sum(axis=1)
    row = np.arange(len(pixels))
    spread = np.clip(_log_depth_slope(tree, known, depth) * distance[row, pick], *JITTER)
    return depth[neighbour[row, pick]] * np.exp(spread * rng.standard_normal(len(pixels)))


def _log_depth_slope(tree: KDTree, known: FloatArray, depth: FloatArray) -> float:
    """By how much log depth typically differs per pixel between neighbouring known points."""
    if len(known) < 2:
        return np.inf
    distance, neighbour = tree.query(known, k=2)
    gap, nearest = np.asarray(distance)[:, 1], np.asarray(neighbour)[:, 1]
    return float(np.median(np.abs(np.log(depth[nearest] / depth)) / np.maximum(gap, 1.0)))
