"""Nerfstudio's cameras and the core's show the same thing."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plugin_cameras import nerfstudio_camera

from genfusion_ns.cameras import Camera, invert_rigid, look_at, project
from genfusion_ns.plugin.views import core_camera, core_cameras, opening_view


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
    assert camera is cameras[2]
    assert torch.allclose(target, torch.tensor([0.0, 5.0, 0.0]), atol=0.3)
    assert opening_view(cameras)[0] is cameras[2]


def test_parallel_cameras_have_an_orbit_ahead_of_them():
    camera, target = opening_view([aimed((x, 0.0, 0.0), (x, 1.0, 0.0)) for x in (0.0, 1.0, 2.0)])
    assert camera.position[0] == 1.0 and target[1] > 0.01
