"""`loop.trajectories`: rigid poses, anchored ends, known circles; clips that cover every pose once."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genfusion_ns.cameras import Camera, invert_rigid, look_at, project
from genfusion_ns.geometry import focus_point, positions, up_axis
from genfusion_ns.loop import trajectories

K = torch.tensor([[30.0, 0, 20.0], [0, 31.0, 9.0], [0, 0, 1]])


def scattered(seed: int, count: int) -> list[Camera]:
    gen = torch.Generator().manual_seed(seed)
    cameras = []
    for _ in range(count):
        position, target = torch.randn(3, generator=gen).double() * 3, torch.randn(3, generator=gen).double() * 0.3
        c2w = look_at(position, target, torch.tensor([0.1, -0.2, 1.0], dtype=torch.float64))
        cameras.append(Camera(invert_rigid(c2w).float(), K, 32, 24))
    return cameras


def assert_rigid(path: list[Camera], template: Camera):
    for camera in path:
        rotation = camera.w2c[:3, :3].double()
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3).double(), atol=1e-5, rtol=0)
        assert float(torch.linalg.det(rotation)) == pytest.approx(1.0, abs=1e-5)
        torch.testing.assert_close(camera.w2c[3], torch.tensor([0.0, 0, 0, 1]))
        assert camera.w2c.isfinite().all()
        assert camera.w2c.dtype == torch.float32
        assert (camera.width, camera.height) == (template.width, template.height)
        torch.testing.assert_close(camera.K, template.K)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 25), st.floats(0.3, 2), st.floats(0, 1))
def test_every_path_is_made_of_rigid_poses(seed, count, n, radius, phase):
    cameras = scattered(seed, count)
    template = trajectories.template_view(cameras)
    focus = focus_point(cameras)
    paths = [
        trajectories.interpolate(cameras, n, template),
        trajectories.interpolate(cameras, n, template, closed=True, focus=focus),
        trajectories.ring(cameras, n, template, radius=radius, height=phase - 0.5, pitch=20 * phase, phase=phase),
        trajectories.spiral(cameras, n, template, radius=radius, phase=phase),
    ]
    for path in paths:
        assert len(path) == n
        assert_rigid(path, template)


@pytest.mark.parametrize("use_focus", [False, True])
def test_interpolation_meets_every_captured_view(around, use_focus):
    template = trajectories.template_view(around)
    focus = focus_point(around) if use_focus else None
    path = trajectories.interpolate(around, 6 * 5 + 1, template, focus=focus)
    for i, camera in enumerate(around):
        torch.testing.assert_close(path[5 * i].w2c, camera.w2c, atol=1e-5, rtol=0)
    closed = trajectories.interpolate(around, 7 * 5 + 1, template, closed=True, focus=focus)
    torch.testing.assert_close(closed[-1].w2c, around[0].w2c, atol=1e-5, rtol=0)
    torch.testing.assert_close(closed[5 * 6].w2c, around[6].w2c, atol=1e-5, rtol=0)


def test_arcs_stay_at_a_distance_and_lines_do_not(around):
    template, focus = trajectories.template_view(around), focus_point(around)
    pair = [around[0], around[3]]
    arc = positions(trajectories.interpolate(pair, 11, template, focus=focus)) - focus
    line = positions(trajectories.interpolate(pair, 11, template)) - focus
    assert arc.norm(dim=-1).min() > 0.99 * min(float(arc[0].norm()), float(arc[-1].norm()))
    assert line.norm(dim=-1).min() < 0.6 * float(arc[0].norm())
    steps = arc.diff(dim=0).norm(dim=-1)
    torch.testing.assert_close(steps, steps.mean().expand(10), rtol=1e-3, atol=0)


def test_opposite_views_are_joined_around_the_focus():
    up = torch.tensor([0.0, 0.0, 1.0])
    pair = [
        Camera(invert_rigid(look_at(torch.tensor([x, 0.0, 0.0]), torch.zeros(3), up)), K, 32, 24) for x in (-2.0, 2.0)
    ]
    path = trajectories.interpolate(pair, 9, trajectories.template_view(pair), focus=torch.zeros(3))
    torch.testing.assert_close(positions(path).norm(dim=-1), torch.full((9,), 2.0))
    assert positions(path)[:, 2].abs().max() < 1e-4


def test_orientation_turns_evenly(around):
    path = trajectories.interpolate(around[:2], 9, trajectories.template_view(around))
    turns = [a.w2c[:3, :3] @ b.w2c[:3, :3].T for a, b in zip(path, path[1:], strict=False)]
    angles = torch.tensor([math.acos(min(1.0, (float(t.trace()) - 1) / 2)) for t in turns])
    torch.testing.assert_close(angles, angles.mean().expand(8), rtol=2e-2, atol=1e-4)


def test_identical_views():
    camera = scattered(0, 1)[0]
    for path in (
        trajectories.interpolate([camera, camera], 4, camera, focus=camera.position),
        trajectories.interpolate([camera, camera], 4, camera, focus=torch.zeros(3)),
    ):
        for pose in path:
            torch.testing.assert_close(pose.w2c, camera.w2c, atol=1e-5, rtol=0)


def test_ring_around_a_ring_of_views(around):
    template = trajectories.template_view(around)
    focus = focus_point(around)
    path = trajectories.ring(around, 36, template)
    offset = positions(path) - focus
    torch.testing.assert_close(offset[:, :2].norm(dim=-1), torch.full((36,), 3.0), rtol=0.1, atol=0)
    torch.testing.assert_close(positions(path)[:, 2], torch.full((36,), 1.0), rtol=1e-3, atol=1e-3)
    angles = torch.atan2(offset[:, 1], offset[:, 0]).sort().values
    assert angles.diff().max() < 0.25
    for camera in path:
        pixel, depth = project(focus, camera)
        torch.testing.assert_close(pixel, torch.tensor([16.0, 12.0]), atol=1e-3, rtol=0)
        assert depth > 0
        assert float(camera.w2c[1, :3] @ up_axis(around)) < 0


def test_ring_parameters(around):
    template = trajectories.template_view(around)
    plain = trajectories.ring(around, 8, template)
    wide = trajectories.ring(around, 8, template, radius=1.5)
    focus = focus_point(around)
    flat = lambda path: (positions(path) - focus)[:, :2].norm(dim=-1)  # noqa: E731
    torch.testing.assert_close(flat(wide), 1.5 * flat(plain), rtol=1e-4, atol=0)
    high = trajectories.ring(around, 8, template, height=0.5)
    torch.testing.assert_close(positions(high)[:, 2] - positions(plain)[:, 2], torch.full((8,), 1.5), rtol=0.02, atol=0)
    turned = trajectories.ring(around, 8, template, phase=1 / 8)
    torch.testing.assert_close(positions(turned)[0], positions(plain)[1], atol=1e-4, rtol=0)
    pitched = trajectories.ring(around, 8, template, pitch=10.0)
    for a, b in zip(plain, pitched, strict=True):
        assert math.degrees(math.acos(float(a.w2c[2, :3] @ b.w2c[2, :3]))) == pytest.approx(10, abs=0.1)
        assert b.w2c[2, 2] > a.w2c[2, 2]  # looks higher
        torch.testing.assert_close(a.position, b.position, atol=1e-5, rtol=0)


def test_spiral_stays_on_the_captured_side(facing):
    path = trajectories.spiral(facing, 40, trajectories.template_view(facing))
    centre, focus = positions(facing).mean(0), focus_point(facing)
    assert (positions(path)[:, 1] < focus[1] - 1).all()
    assert (positions(path) - centre).norm(dim=-1).max() < 1.5
    assert positions(path).std(0)[[0, 2]].min() > 0.02


def test_surrounds(around, facing):
    assert trajectories.surrounds(around)
    assert not trajectories.surrounds(facing)
    assert trajectories.surrounds([around[0], around[2], around[4]])
    assert not trajectories.surrounds(around[:2])
    assert not trajectories.surrounds(around[:1])


def test_looking_straight_down_in_all_headings():
    cameras = []
    for i, heading in enumerate((0.0, 1.5, 3.0, 4.5)):
        up = torch.tensor([math.cos(heading), math.sin(heading), 0.0])
        position = torch.tensor([0.02 * i, 0.0, 3.0])
        c2w = look_at(position, position - torch.tensor([0.0, 0.0, 1.0]), up)
        cameras.append(Camera(invert_rigid(c2w), K, 32, 24))
    assert up_axis(cameras)[2] > 0.99
    template = trajectories.template_view(cameras)
    for path in (trajectories.ring(cameras, 9, template), trajectories.spiral(cameras, 9, template)):
        assert_rigid(path, template)


def test_visiting_order_walks_along_the_ring(around):
    shuffled = [around[i] for i in (3, 0, 5, 1, 6, 2, 4)]
    order = trajectories.visiting_order(shuffled)
    assert sorted(order) == list(range(7))
    walked = [(3, 0, 5, 1, 6, 2, 4)[i] for i in order]
    hops = [min((a - b) % 7, (b - a) % 7) for a, b in zip(walked, walked[1:], strict=False)]
    assert hops == [1] * 6
    assert trajectories.visiting_order(around[:1]) == [0]


def test_template_is_the_median_view_centred(around):
    zoomed = [
        Camera(c.w2c, c.K * torch.tensor([[f], [f], [1.0]]), 32, 24) for c, f in zip(around, range(1, 8), strict=True)
    ]
    template = trajectories.template_view(zoomed)
    assert (template.width, template.height) == (32, 24)
    torch.testing.assert_close(template.K, torch.tensor([[120.0, 0, 16.0], [0, 120.0, 12.0], [0, 0, 1]]))
    wide = trajectories.template_view(around, 64, 24)
    torch.testing.assert_close(wide.K, torch.tensor([[60.0, 0, 32.0], [0, 60.0, 12.0], [0, 0, 1]]))


# -- clips -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [16, 17, 20, 24, 32, 40, 48, 80, 85, 150, 160, 170, 300])
def test_fewest_clips_keep_every_frame_once(n):
    windows = trajectories.partition(n, 16)
    assert len(windows) == math.ceil(n / 16)  # the official code takes n // 16 + 2
    assert sorted({i for window in windows for i in window}) == list(range(n))


@settings(max_examples=200)
@given(st.integers(1, 200), st.integers(1, 20))
def test_partition(n, length):
    windows = trajectories.partition(n, length)
    assert all(len(window) == length for window in windows)
    assert {i for window in windows for i in window} == set(range(n))
    if n > length:
        assert len(windows) == math.ceil(n / length)
        assert all(window == list(range(window[0], window[0] + length)) for window in windows)
        spacing = [b[0] - a[0] for a, b in zip(windows, windows[1:], strict=False)]
        assert max(spacing) - min(spacing) <= 1
    else:
        assert len(windows) == 1
        assert all(abs(a - b) <= 1 for a, b in zip(windows[0], windows[0][1:], strict=False))


@pytest.mark.parametrize(("n", "length"), [(0, 4), (5, 0), (-1, 4)])
def test_partition_refuses(n, length):
    with pytest.raises(ValueError, match="expected n >= 1"):
        trajectories.partition(n, length)
