"""SIFT tracks between photos of known poses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_cameras import camera_from_arrays

from genfusion_ns.cameras import look_at
from genfusion_ns.data.matching import NEAREST_VIEWS, _pairs, match_views
from genfusion_ns.data.triangulate import triangulate_tracks
from genfusion_ns.data.views import TrainView, view_arrays

K = np.array([[200.0, 0, 120], [0, 200, 90], [0, 0, 1]])


def wall(texture: np.ndarray, c2w: np.ndarray) -> np.ndarray:
    """A photo of the plane z = 0, of which `texture` covers [-2, 2] x [-2, 2]: rays meet it, in closed form."""
    y, x = np.mgrid[:180, :240] + 0.5
    rays = np.stack([(x - 120) / 200, (y - 90) / 200, np.ones_like(x)], -1) @ c2w[:3, :3].T
    hit = c2w[:3, 3] - rays * (c2w[2, 3] / rays[..., 2:])
    side = len(texture)
    place = np.clip((hit[..., :2] + 2) / 4 * (side - 1), 0, side - 1.001)
    low = place.astype(int)
    u, v = (place - low)[..., :1], (place - low)[..., 1:]
    a, b = texture[low[..., 1], low[..., 0]], texture[low[..., 1], low[..., 0] + 1]
    c, d = texture[low[..., 1] + 1, low[..., 0]], texture[low[..., 1] + 1, low[..., 0] + 1]
    return np.rint((a * (1 - u) + b * u) * (1 - v) + (c * (1 - u) + d * u) * v).astype(np.uint8)


def blobs(seed: int) -> np.ndarray:
    """A texture [512, 512, 3] of smooth random spots, which SIFT likes."""
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(noise, 512, mode="bicubic")[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()


def views_of(textures: list[np.ndarray]) -> list[TrainView]:
    views = []
    for i, texture in enumerate(textures):
        eye = torch.tensor([0.5 * i - 0.5, 0.1 * i, 3.0], dtype=torch.float64)
        c2w = look_at(eye, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 1, 0], dtype=torch.float64)).numpy()
        views.append(TrainView(camera_from_arrays(c2w, K, 240, 180), wall(texture, c2w), f"{i}.png", i))
    return views


@pytest.mark.slow
def test_matches_of_a_textured_wall_lie_on_it():
    views = views_of([blobs(0)] * 3)
    tracks = match_views(views, threads=1)
    found = triangulate_tracks(tracks, view_arrays(views).w2c)
    assert len(found.xyz) > 100
    # A depth error of 1.5 % of the distance is about a third of a pixel at this baseline.
    assert np.quantile(np.abs(found.xyz[:, 2]), 0.95) < 0.05
    assert (tracks.views_per_point() == 3).sum() > 30
    again = match_views(views, threads=1)
    assert (again.ray == tracks.ray).all() and (again.point == tracks.point).all()


def test_photos_of_different_things_give_no_tracks():
    assert len(match_views(views_of([blobs(1), blobs(2), blobs(3)]), threads=1).point) == 0


def test_grey_photos_give_no_tracks():
    assert len(match_views(views_of([np.full((512, 512, 3), 99.0)] * 2), threads=1).point) == 0


@pytest.mark.parametrize(("count", "all_pairs"), [(5, True), (12, True), (40, False)])
def test_many_views_are_matched_with_their_nearest_only(capture, count, all_pairs):
    pairs = _pairs(view_arrays(capture(count, 2).views()))
    assert all(a < b for a, b in pairs) and len(set(pairs)) == len(pairs)
    if all_pairs:
        assert len(pairs) == count * (count - 1) // 2
    else:
        assert count * NEAREST_VIEWS / 2 <= len(pairs) <= count * NEAREST_VIEWS
        assert {(i, i + 1) for i in range(count - 1)} <= set(pairs)  # the ring's neighbours


@pytest.mark.slow
def test_real_photos_without_their_model(shared_views):
    """Matched points agree with the wall-to-wall COLMAP model to a few per cent; see the other tests of real scenes."""
    views = shared_views("llff_fern", 3)
    found = triangulate_tracks(match_views(views, threads=1), view_arrays(views).w2c)
    assert len(found.xyz) > 400
