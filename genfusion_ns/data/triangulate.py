"""Points from their observations in posed views: many points at once, any number of views each.

Everything works on flat lists of observations (`Tracks`, whose `image` counts the given cameras) and in normalised
image coordinates, so tolerances are tangents of angles and hold for any resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genfusion_ns.data.colmap import Tracks
from genfusion_ns.data.views import FloatArray, IntArray

MAX_ERROR = 0.004
"""Largest reprojection error that passes: 2 pixels in a 640-pixel-wide photo with a field of view of 65 degrees."""
MIN_ANGLE = 1.5
"""Smallest angle between two rays of a track that passes, in degrees; COLMAP's default."""


@dataclass(frozen=True)
class Triangulated:
    """Points that passed all tests, with the observations that support them."""

    xyz: FloatArray
    """[P, 3] positions in the world of the cameras."""
    tracks: Tracks
    """Their observations; `point` counts `xyz`."""
    origin: IntArray
    """[P] the point index that the input's tracks had."""


def triangulate_tracks(
    tracks: Tracks, w2c: FloatArray, max_error: float = MAX_ERROR, min_angle: float = MIN_ANGLE
) -> Triangulated:
    """Triangulate every point that two or more cameras see; drop what does not agree with the cameras.

    While a point's worst observation is off by more than `max_error` it is removed, as long as two remain. Points
    behind a camera, and points whose rays meet at less than `min_angle`, are dropped.

    Args:
        tracks: observations; `image` counts the cameras.
        w2c: [V, 4, 4] world to camera, OpenCV axes.
        max_error: largest reprojection error in normalised image coordinates.
        min_angle: smallest largest angle between two rays of a point, in degrees.
    """
    kept, origin = _several_views(tracks)
    while True:
        xyz = refine(triangulate(kept, w2c, len(origin)), kept, w2c)
        bad = _worst_observations(kept, reprojection_errors(xyz, kept, w2c), len(origin), max_error)
        if not bad.any():
            break
        kept, survivors = _several_views(kept.where(~bad))
        origin = origin[survivors]
    wide = largest_angles(xyz, kept, w2c) >= min_angle
    kept, survivors = _several_views(kept.where(wide[kept.point]))
    return Triangulated(xyz[survivors], kept, origin[survivors])


def triangulate(tracks: Tracks, w2c: FloatArray, count: int) -> FloatArray:
    """[count, 3] points nearest to their rays in least squares: sum (1 - d d^T) (x - c) = 0 over rays c + s d.

    Linear, and exact for exact rays; where all rays of a point are parallel it gives the point of smallest norm.
    """
    rotation, centre, direction = _rays(tracks, w2c)
    across = np.eye(3) - direction[:, :, None] * direction[:, None, :]
    matrix = _sum_by_point(across, tracks.point, count)
    vector = _sum_by_point(np.einsum("oij,oj->oi", across, centre), tracks.point, count)
    return np.einsum("pij,pj->pi", np.linalg.pinv(matrix, hermitian=True), vector)


def refine(xyz: FloatArray, tracks: Tracks, w2c: FloatArray) -> FloatArray:
    """Lower the squared reprojection error of points [P, 3] by ten damped Gauss-Newton steps, each if it helps."""
    xyz = xyz.copy()
    cost, residual, slope = _cost(xyz, tracks, w2c)
    damping = np.full(len(xyz), 1e-6)
    for _ in range(10):
        normal = _sum_by_point(np.einsum("oki,okj->oij", slope, slope), tracks.point, len(xyz))
        gradient = _sum_by_point(np.einsum("oki,ok->oi", slope, residual), tracks.point, len(xyz))
        level = damping * np.trace(normal, axis1=1, axis2=2) + 1e-30
        step = np.linalg.solve(normal + level[:, None, None] * np.eye(3), gradient[:, :, None])[:, :, 0]
        trial_cost, trial_residual, trial_slope = _cost(xyz - step, tracks, w2c)
        better = trial_cost < cost
        if not better.any():
            break
        of = better[tracks.point]
        xyz[better] -= step[better]
        cost = np.where(better, trial_cost, cost)
        residual[of], slope[of] = trial_residual[of], trial_slope[of]
        damping = np.where(better, damping * 0.1, damping * 10.0)
    return xyz


def reprojection_errors(xyz: FloatArray, tracks: Tracks, w2c: FloatArray) -> FloatArray:
    """[O] distance between observed and projected ray in normalised image coordinates; Inf behind the camera."""
    local = _local(xyz, tracks, w2c)
    depth = np.where(local[:, 2] > 0, local[:, 2], 1.0)
    error = np.linalg.norm(local[:, :2] / depth[:, None] - tracks.ray, axis=1)
    return np.where(local[:, 2] > 0, error, np.inf)


def largest_angles(xyz: FloatArray, tracks: Tracks, w2c: FloatArray) -> FloatArray:
    """[P] largest angle in degrees between the lines of sight from a point to two of its cameras."""
    order = np.argsort(tracks.point, kind="stable")
    point = tracks.point[order]
    _, centre, _ = _rays(tracks, w2c)
    sight = centre[order] - xyz[point]
    sight /= np.maximum(np.linalg.norm(sight, axis=1, keepdims=True), 1e-30)
    angles = np.zeros(len(xyz))
    longest = int(np.bincount(point).max()) if len(point) else 0
    for lag in range(1, longest):
        pair = np.flatnonzero(point[lag:] == point[:-lag])
        # The chord keeps small angles exact, where the cosine would round to one.
        chord = np.linalg.norm(sight[pair] - sight[pair + lag], axis=1)
        np.maximum.at(angles, point[pair], np.degrees(2.0 * np.arcsin(np.clip(chord / 2.0, 0.0, 1.0))))
    return angles


def _several_views(tracks: Tracks) -> tuple[Tracks, IntArray]:
    """Points seen by two or more cameras, renumbered from 0, and the numbers that they had."""
    enough = tracks.views_per_point() >= 2
    kept = tracks.where(enough[tracks.point])
    origin, point = np.unique(kept.point, return_inverse=True)
    return Tracks(point.reshape(-1), kept.image, kept.ray), origin


def _worst_observations(tracks: Tracks, error: FloatArray, count: int, limit: float) -> NDArray[np.bool_]:
    """[O] each point's worst observation where that is worse than `limit`; all of them where the point is behind."""
    worst = np.zeros(count)
    np.maximum.at(worst, tracks.point, error)
    return (error > limit) & (error == worst[tracks.point])


def _cost(xyz: FloatArray, tracks: Tracks, w2c: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Cost [P] (Inf behind a camera), residuals [O, 2] and their derivatives [O, 2, 3] by the point."""
    local = _local(xyz, tracks, w2c)
    front = local[:, 2] > 0
    depth = np.where(front, local[:, 2], 1.0)
    flat = local[:, :2] / depth[:, None]
    residual = flat - tracks.ray
    rotation = w2c[tracks.image, :3, :3]
    slope = (rotation[:, :2] - flat[:, :, None] * rotation[:, 2:3]) / depth[:, None, None]
    squared = np.where(front, (residual**2).sum(axis=1), np.inf)
    return _sum_by_point(squared, tracks.point, len(xyz)), residual, slope


def _local(xyz: FloatArray, tracks: Tracks, w2c: FloatArray) -> FloatArray:
    """[O, 3] observed points in camera axes."""
    pose = w2c[tracks.image]
    return np.einsum("oij,oj->oi", pose[:, :3, :3], xyz[tracks.point]) + pose[:, :3, 3]


def _rays(tracks: Tracks, w2c: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Rotations [O, 3, 3], camera centres [O, 3] and unit directions [O, 3] in the world."""
    rotation = w2c[tracks.image, :3, :3]
    centre = -np.einsum("oji,oj->oi", rotation, w2c[tracks.image, :3, 3])
    flat = np.concatenate([tracks.ray, np.ones((len(tracks.ray), 1))], axis=1)
    direction = np.einsum("oji,oj->oi", rotation, flat)
    return rotation, centre, direction / np.linalg.norm(direction, axis=1, keepdims=True)


def _sum_by_point(values: FloatArray, point: IntArray, count: int) -> FloatArray:
    """[count, ...] sums of per-observation values [O, ...]."""
    total = np.zeros((count, *values.shape[1:]))
    np.add.at(total, point, values)
    return total
