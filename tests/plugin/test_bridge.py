"""Nerfstudio's cameras and the core's show the same thing."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plugin_cameras import nerfstudio_camera

from genfusion_ns.cameras import Camera, invert_rigid, look_at, project
from genfusion_ns.plugin.bridge import core_camera, core_cameras, opening_view


def some_camera(seed: int) -> Camera:
    random = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=random, dtype=torch.float64)).Q
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = rotation * torch.linalg.det(rotation)
    c2w[:3, 3] = torch.randn(3, generator=random, dtype=torch.float64)
    K = torch.tensor([[50.0, 0.0, 21.5], [0.0, 61.0, 9.25], [0.0, 0.0, 1.0]])
    return Camera(invert_rigid(c2w).float(), K, 40, 30)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_round_trip(seed):
    camera = some_camera(seed)
    back = core_camera(nerfstudio_camera(camera))
    assert torch.allclose(back.w2c, camera.w2c, atol=1e-6)
    assert torch.equal(back.K, camera.K)
    assert (back.width, back.height) == (40, 30)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_nerfstudio_ray_hits_the_pixel_that_the_core_projects_to(seed):
    """Independent oracle: Nerfstudio's own ray generation."""
    camera = some_camera(seed)
    rays = nerfstudio_camera(camera).generate_rays(camera_indices=0)
    points = rays.origins + 2.5 * rays.directions
    pixels, depth = project(points, camera)
    rows, columns = torch.meshgrid(torch.arange(30.0), torch.arange(40.0), indexing="ij")
    assert (depth > 0).all()
    assert torch.allclose(pixels, torch.stack([columns, rows], -1) + 0.5, atol=2e-3)


def test_batch():
    cameras = [some_camera(0), some_camera(1)]
    batch = nerfstudio_camera(cameras[1])
    assert torch.allclose(core_cameras(batch)[0].w2c, cameras[1].w2c, atol=1e-6)


def aimed(position, target) -> Camera:
    c2w = look_at(torch.tensor(position), torch.tensor(target), torch.tensor([0.0, 0.0, 1.0]))
    return Camera(invert_rigid(c2w), torch.eye(3), 4, 3)


def test_the_viewer_opens_amid_forward_facing_cameras_and_orbits_what_they_look_at():
    cameras = [aimed((x, 0.0, 0.0), (0.0, 5.0, 0.0)) for x in (1.0, -1.0, 0.1, 0.5)]
    cameras.append(aimed((0.0, 0.0, 0.0), (0.0, -5.0, 0.0)))  # a stray look back
    camera, target = opening_view(cameras[:4])
    assert torch.equal(camera.w2c, cameras[2].w2c)
    assert torch.allclose(target, torch.tensor([0.0, 5.0, 0.0]), atol=0.3)
    assert torch.equal(opening_view(cameras)[0].w2c, cameras[2].w2c)


def test_parallel_cameras_have_an_orbit_ahead_of_them():
    camera, target = opening_view([aimed((x, 0.0, 0.0), (x, 1.0, 0.0)) for x in (0.0, 1.0, 2.0)])
    assert camera.position[0] == 1.0 and target[1] > 0.01


def photographer(position, target) -> Camera:
    """With a lens of about 60 degrees."""
    return replace(
        aimed(position, target),
        K=torch.tensor([[300.0, 0, 160.0], [0, 300.0, 120.0], [0, 0, 1]]),
        width=320,
        height=240,
    )


def test_no_photo_that_the_viewer_draws_hides_the_scene():
    """Rays through the opening view's pixels against the quads of all photos, as viser's client places them."""
    ring = [(math.cos(a), math.sin(a), 0.3) for a in torch.linspace(0, 5.5, 8).tolist()]
    row = [(0.1 * i, -1.0, 0.0) for i in range(-3, 4)]
    queue = [(0.0, -1.0 - 0.06 * i, 0.0) for i in range(4)]  # each looks at the back of the one before it
    for places in (ring, row, queue):
        cameras = [photographer(place, (0.0, 0.3, 0.0)) for place in places]
        view, _ = opening_view(cameras, frustum=0.01)
        assert hits(view, cameras, 0.01) < 0.02
        assert hits(opening_view(cameras)[0], cameras, 0.01) == 1.0  # where it opened before: in a frustum
        nearest = min(float((view.position - camera.position).norm()) for camera in cameras)
        assert nearest < 0.06


def hits(view: Camera, cameras: list[Camera], scale: float) -> float:
    """Share of the view's pixels whose ray meets a photo."""
    u, v = torch.meshgrid(torch.arange(0.5, 320, 8), torch.arange(0.5, 240, 8), indexing="xy")
    rays = torch.stack([(u - 160) / 300, (v - 120) / 300, torch.ones_like(u)], -1).reshape(-1, 3) @ view.c2w[:3, :3].T
    met = torch.zeros(len(rays), dtype=torch.bool)
    for camera in cameras:
        y = 160 / 300  # tangent of half the horizontal field of view, which Nerfstudio gives as the vertical one
        x, z = y * 160 / 120, 1.0
        size = scale / (x * y * z / 3) ** (1 / 3)
        origin = camera.w2c[:3, :3] @ view.position + camera.w2c[:3, 3]
        along = rays @ camera.w2c[:3, :3].T
        t = (z * size - origin[2]) / along[:, 2]
        at = origin + t[:, None] * along
        met |= (t > 0) & (at[:, 0].abs() < x * size) & (at[:, 1].abs() < y * size)
    return float(met.float().mean())
