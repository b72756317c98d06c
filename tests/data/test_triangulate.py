"""Triangulation against analytic cameras with exact observations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genfusion_ns.data.colmap import Tracks
from genfusion_ns.data.triangulate import (
    largest_angles,
    refine,
    reprojection_errors,
    triangulate,
    triangulate_tracks,
)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), views=st.integers(2, 6))
def test_exact_observations_give_exact_points(capture, seed, views):
    data = capture(views, 30, seed)
    found = triangulate_tracks(data.tracks, data.w2c)
    assert np.abs(found.xyz - data.xyz[found.origin]).max() < 1e-8
    assert len(found.xyz) == 30 and len(found.tracks.point) == 30 * views


def test_linear_start_is_exact_too(capture):
    data = capture(4)
    assert np.abs(triangulate(data.tracks, data.w2c, 40) - data.xyz).max() < 1e-8


def test_refinement_reaches_the_least_reprojection_error(capture):
    """Against scipy's general least-squares solver, point by point."""
    from scipy.optimize import least_squares

    data = capture(4, 6)
    noise = np.random.default_rng(1).normal(0, 2e-3, data.tracks.ray.shape)
    tracks = Tracks(data.tracks.point, data.tracks.image, data.tracks.ray + noise)
    refined = refine(triangulate(tracks, data.w2c, 6), tracks, data.w2c)
    for p in range(6):
        own = tracks.where(tracks.point == p)

        def residuals(x: np.ndarray, own: Tracks = own) -> np.ndarray:
            local = np.einsum("oij,j->oi", data.w2c[own.image, :3, :3], x) + data.w2c[own.image, :3, 3]
            return (local[:, :2] / local[:, 2:] - own.ray).ravel()

        best = least_squares(residuals, data.xyz[p], xtol=1e-15, ftol=1e-15, gtol=1e-15).x
        assert np.abs(refined[p] - best).max() < 1e-7


def test_noise_moves_points_in_proportion(capture):
    data = capture(5, 200)
    rng = np.random.default_rng(0)
    off = []
    for sigma in (1e-4, 1e-3):
        ray = data.tracks.ray + rng.normal(0, sigma, data.tracks.ray.shape)
        found = triangulate_tracks(Tracks(data.tracks.point, data.tracks.image, ray), data.w2c, max_error=1.0)
        off.append(np.median(np.linalg.norm(found.xyz - data.xyz[found.origin], axis=1)))
    assert off[0] < 1e-3 and 8 < off[1] / off[0] < 12


def test_a_false_observation_is_removed_and_the_point_kept(capture):
    data = capture(4)
    ray = data.tracks.ray.copy()
    false = int(np.flatnonzero((data.tracks.point == 7) & (data.tracks.image == 2))[0])
    ray[false] += 0.05
    found = triangulate_tracks(Tracks(data.tracks.point, data.tracks.image, ray), data.w2c)
    seven = int(np.flatnonzero(found.origin == 7)[0])
    assert np.abs(found.xyz[seven] - data.xyz[7]).max() < 1e-8
    assert 2 not in found.tracks.image[found.tracks.point == seven]
    assert len(found.xyz) == 40


def test_two_views_that_disagree_are_dropped(capture):
    data = capture(2)
    ray = data.tracks.ray.copy()
    ray[(data.tracks.point == 3) & (data.tracks.image == 1)] += [0.0, 0.05]
    found = triangulate_tracks(Tracks(data.tracks.point, data.tracks.image, ray), data.w2c)
    assert 3 not in found.origin and len(found.xyz) == 39


def test_points_behind_a_camera_are_dropped():
    """Two cameras side by side whose rays diverge in front and so meet behind them."""
    w2c = np.tile(np.eye(4), (2, 1, 1))
    w2c[1, 0, 3] = -1.0
    away = Tracks(np.array([0, 0]), np.array([0, 1]), np.array([[-0.2, 0.0], [0.2, 0.0]]))
    towards = Tracks(away.point, away.image, -away.ray)
    assert len(triangulate_tracks(away, w2c).xyz) == 0
    np.testing.assert_allclose(triangulate_tracks(towards, w2c).xyz, [[0.5, 0.0, 2.5]], atol=1e-9)
    errors = reprojection_errors(np.array([[0.5, 0.0, -2.5]]), away, w2c)
    assert np.isinf(errors).all()


def test_angles_and_their_limit():
    """A point at distance d before the middle of a baseline b is seen under 2 atan(b / 2d)."""
    w2c = np.tile(np.eye(4), (3, 1, 1))
    w2c[1, 0, 3], w2c[2, 0, 3] = -0.4, -1.0
    xyz = np.array([[0.5, 0.0, 5.0], [0.5, 0.0, 50.0]])
    point, image = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    local = xyz[point] + w2c[image, :3, 3]
    tracks = Tracks(point, image, local[:, :2] / local[:, 2:])
    wanted = np.degrees(2 * np.arctan([0.1, 0.01]))
    np.testing.assert_allclose(largest_angles(xyz, tracks, w2c), wanted, rtol=1e-12)
    assert triangulate_tracks(tracks, w2c, min_angle=1.5).origin.tolist() == [0]
    assert triangulate_tracks(tracks, w2c, min_angle=1.0).origin.tolist() == [0, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_single_observations_and_nothing_at_all(capture, count):
    data = capture(2)
    few = data.tracks.where(np.arange(len(data.tracks.point)) < count)
    found = triangulate_tracks(few, data.w2c)
    assert found.xyz.shape == (0, 3) and found.origin.shape == (0,) and len(found.tracks.point) == 0


def test_the_same_image_twice_is_one_view(capture):
    data = capture(2, 1)
    twice = data.tracks.where(np.array([True, False]))
    twice = Tracks(np.array([0, 0]), np.repeat(twice.image, 2), np.repeat(twice.ray, 2, axis=0))
    assert len(triangulate_tracks(twice, data.w2c).xyz) == 0


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_points_move_with_the_world(capture, seed):
    """A similarity of all cameras moves and scales the points likewise."""
    data = capture(3, 20)
    rng = np.random.default_rng(seed)
    R = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    R *= np.sign(np.linalg.det(R))
    scale, t = rng.uniform(0.1, 10.0), rng.normal(size=3)
    c2w = data.c2w.copy()
    c2w[:, :3, :3] = R @ data.c2w[:, :3, :3]
    c2w[:, :3, 3] = scale * data.c2w[:, :3, 3] @ R.T + t
    found = triangulate_tracks(data.tracks, np.linalg.inv(c2w))
    np.testing.assert_allclose(found.xyz, scale * data.xyz @ R.T + t, atol=1e-8 * max(scale, 1))
