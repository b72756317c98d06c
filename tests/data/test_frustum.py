"""Points sampled in the frusta of the training views."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genfusion_ns.data.colmap import find_model, read_model
from genfusion_ns.data.frustum import JITTER, complete_with_frustum_samples, depth_range, focus_point
from genfusion_ns.data.views import inside, to_pixels, view_arrays


def seen_from(views, v: int, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and depths of points in view v."""
    cameras = view_arrays(views)
    local = xyz @ cameras.w2c[v, :3, :3].T + cameras.w2c[v, :3, 3]
    return to_pixels(local[:, :2] / local[:, 2:], cameras.K[v]), local[:, 2]


def shares(count: int, views: int) -> list[slice]:
    ends = np.linspace(0, count, views + 1).round().astype(int)
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]


@settings(max_examples=15)
@given(count=st.integers(0, 200), seed=st.integers(0, 99))
def test_samples_lie_in_the_frusta_equally_many_per_view(capture, count, seed):
    data = capture(3)
    views = data.views()
    found = complete_with_frustum_samples(views, data.xyz, data.tracks, count, seed)
    assert found.xyz.shape == found.rgb.shape == (count, 3) and np.isfinite(found.xyz).all()
    for v, share in enumerate(shares(count, 3)):
        pixels, depth = seen_from(views, v, found.xyz[share])
        assert (depth > 0).all() and inside(pixels, np.array([data.width, data.height])).all()


def test_samples_cover_each_image_evenly(capture):
    data = capture(2)
    found = complete_with_frustum_samples(data.views(), data.xyz, data.tracks, 800)
    pixels, _ = seen_from(data.views(), 0, found.xyz[:400])
    counts, _, _ = np.histogram2d(*pixels.T, bins=4, range=[[0, data.width], [0, data.height]])
    assert counts.min() >= 20 and counts.max() <= 30  # 25 on average


def test_colours_are_the_photos(capture):
    data = capture(2)
    ramp = np.stack(np.broadcast_arrays(np.arange(120) * 2, np.arange(96)[:, None] * 2, 7), axis=-1)
    views = data.views(ramp.astype(np.uint8))
    found = complete_with_frustum_samples(views, data.xyz, data.tracks, 300)
    pixels, _ = seen_from(views, 0, found.xyz[:150])
    wanted = np.clip(2 * (pixels - 0.5), 0, [238, 190])
    np.testing.assert_allclose(found.rgb[:150], np.c_[wanted, np.full(150, 7.0)], atol=1e-6)


def test_depths_spread_around_the_tracks_depths(capture):
    """On a fronto-parallel plane all tracks have one depth; log depths scatter by the smallest jitter around it."""
    data = capture(2, 300)
    views = data.views()
    local = np.random.default_rng(0).uniform([-1, -1, 0], [1, 1, 0], (300, 3)) + [0, 0, 3.0]
    xyz = (local - data.w2c[0, :3, 3]) @ data.w2c[0, :3, :3]
    found = complete_with_frustum_samples(views, xyz, data.tracks, 4000)
    _, depth = seen_from(views, 0, found.xyz[:2000])
    spread = np.log(depth / 3.0)
    assert abs(spread.mean()) < 0.002 and spread.std() == pytest.approx(JITTER[0], rel=0.1)


def test_samples_stay_on_surfaces_at_a_depth_edge(capture):
    """A near half and a far half: hardly any sample lies between them, as it would after averaging neighbours."""
    data = capture(2, 400)
    views = data.views()
    rng = np.random.default_rng(0)
    pixels = rng.uniform([0, 0], [data.width, data.height], (400, 2))
    depth = np.where(pixels[:, 0] < 60, 2.0, 6.0)
    rays = np.c_[(pixels - data.K[:2, 2]) / [100.0, 110.0], np.ones(400)]
    xyz = (rays * depth[:, None] - data.w2c[0, :3, 3]) @ data.w2c[0, :3, :3]
    found = complete_with_frustum_samples(views, xyz, None, 2000)
    _, sampled = seen_from(views, 0, found.xyz[:1000])
    near, far = np.abs(np.log(sampled / 2.0)) < 0.1, np.abs(np.log(sampled / 6.0)) < 0.1
    assert (near | far).mean() > 0.97 and near.sum() > 300 and far.sum() > 300


def test_same_seed_same_samples(capture):
    data = capture(3)
    one, two, three = (
        complete_with_frustum_samples(data.views(), data.xyz, data.tracks, 90, seed).xyz for seed in (1, 1, 2)
    )
    assert (one == two).all() and not (one == three).any()


def test_a_view_without_tracks_uses_what_projects_into_it(capture):
    data = capture(3)
    others = data.tracks.where(data.tracks.image != 2)
    found = complete_with_frustum_samples(data.views(), data.xyz, others, 300)
    _, known = seen_from(data.views(), 2, data.xyz)
    _, depth = seen_from(data.views(), 2, found.xyz[200:])
    assert not found.blind_views
    assert known.min() * 0.5 < depth.min() and depth.max() < known.max() * 2.0


def test_without_any_track_depths_come_from_the_cameras(capture):
    data = capture(3)
    found = complete_with_frustum_samples(data.views(), np.zeros((0, 3)), None, 300)
    assert found.blind_views == [view.name for view in data.views()]
    for v, share in enumerate(shares(300, 3)):
        _, depth = seen_from(data.views(), v, found.xyz[share])
        middle = np.linalg.norm(data.c2w[v, :3, 3])  # all cameras look at the origin
        assert middle / 3.01 < depth.min() < middle / 2 and middle * 2 < depth.max() < middle * 3.01


def test_focus_point(capture):
    data = capture(4)
    np.testing.assert_allclose(focus_point(data.w2c), 0.0, atol=1e-9)
    np.testing.assert_allclose(depth_range(data.w2c)[:, 1], 3 * np.linalg.norm(data.c2w[:, :3, 3], axis=1))
    backwards = np.diag([-1.0, 1.0, -1.0, 1.0]) @ data.w2c
    assert focus_point(backwards) is None


def test_parallel_cameras_take_their_baseline_for_scale():
    w2c = np.tile(np.eye(4), (3, 1, 1))
    w2c[:, 0, 3] = [0.0, -1.0, -2.0]
    assert focus_point(w2c) is None
    np.testing.assert_allclose(depth_range(w2c), np.tile([4.0, 40.0], (3, 1)))
    w2c[:, 0, 3] = 0.0
    assert np.isfinite(depth_range(w2c)).all()


@pytest.mark.slow
@pytest.mark.parametrize("scene", ["plush", "llff_fern", "fox"])
@pytest.mark.parametrize("n", [3, 6, 9])
def test_depth_range_from_cameras_holds_the_real_scenes(shared_scene, shared_views, scene, n):
    model = read_model(find_model(shared_scene(scene)))
    images = [view.index for view in shared_views(scene, n)]  # both lists are sorted by name
    w2c = np.linalg.inv(model.c2w)[images]
    for v, (near, far) in enumerate(depth_range(w2c)):
        seen = model.xyz[model.tracks.point[model.tracks.image == images[v]]]
        depth = seen @ w2c[v, 2, :3] + w2c[v, 2, 3]
        assert np.mean((depth > near) & (depth < far)) > 0.99
