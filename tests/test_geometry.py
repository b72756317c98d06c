"""`geometry`: planes and spheres with known normals, cameras with a known focus and up axis."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from genfusion_ns import geometry
from genfusion_ns.cameras import Camera, invert_rigid, look_at, pixel_rays

K = torch.tensor([[40.0, 0, 21.3], [0, 38.0, 14.2], [0, 0, 1]], dtype=torch.float64)


def camera_at(position, target, up=(0.0, 0.0, 1.0), roll: float = 0.0) -> Camera:
    vectors = [torch.tensor(v, dtype=torch.float64) for v in (position, target, up)]
    c2w = look_at(*vectors)
    c2w[:3, :3] = c2w[:3, :3] @ torch.from_numpy(Rotation.from_euler("z", roll, degrees=True).as_matrix())
    return Camera(invert_rigid(c2w), K, 40, 30)


def random_camera(seed: int) -> Camera:
    gen = torch.Generator().manual_seed(seed)
    return camera_at((torch.randn(3, generator=gen) * 2 + 3).tolist(), (torch.randn(3, generator=gen)).tolist())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_normal_of_a_plane(seed, plane_seed):
    camera = random_camera(seed)
    gen = torch.Generator().manual_seed(plane_seed)
    # a plane in front of the camera, tilted by less than its rays' angles: n . x = n . (0, 0, 4) in camera axes
    normal = F.normalize(torch.tensor([0.0, 0.0, -1.0]).double() + 0.4 * torch.randn(3, generator=gen).double(), dim=0)
    rays = pixel_rays(camera)
    depth = (normal[2] * 4 / (rays @ normal))[..., None]
    if not bool((depth > 0).all()) or not bool((rays @ normal < 0).all()):
        return
    found = geometry.depth_to_normal(depth, camera)
    expected = normal @ camera.w2c[:3, :3]
    torch.testing.assert_close(found[1:-1, 1:-1], expected.expand(28, 38, 3), atol=1e-6, rtol=0)
    border = torch.ones(30, 40, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert found[border].abs().max() == 0


def test_normal_of_a_sphere_and_of_holes():
    camera = camera_at((0.0, -4.0, 0.0), (0.0, 0.0, 0.0))
    rays = pixel_rays(camera.resized(400, 300))
    fine = camera.resized(400, 300)
    direction = rays @ fine.w2c[:3, :3]
    b, c = direction @ fine.position, fine.position @ fine.position - 1.0
    a = direction.square().sum(-1)
    disc = b * b - a * c
    depth = torch.where(disc > 0, (-b - disc.clamp_min(0).sqrt()) / a, 0.0)[..., None]
    hit = fine.position + direction * depth
    found = geometry.depth_to_normal(depth, fine)
    whole = found.norm(dim=-1) > 0.5
    middle = whole & (disc > 0.3 * disc.max())
    assert int(middle.sum()) > 1000
    assert float((found - hit)[middle].norm(dim=-1).max()) < 0.01
    assert found[(disc <= 0)].abs().max() == 0
    torch.testing.assert_close(found[whole].norm(dim=-1), torch.ones(int(whole.sum())).double())


def test_normals_face_the_camera_on_rough_depth():
    camera = random_camera(3)
    depth = 2 + torch.rand(30, 40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normal = geometry.depth_to_normal(depth, camera)
    facing = (normal * (pixel_rays(camera) @ camera.w2c[:3, :3])).sum(-1)
    assert facing[1:-1, 1:-1].max() < 0


def test_normal_gradient_and_degenerate_maps():
    camera = Camera(torch.eye(4, dtype=torch.float64), K, 5, 4)
    depth = (2 + torch.rand(4, 5, 1, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: geometry.depth_to_normal(d, camera), depth)
    empty = torch.zeros(4, 5, 1, dtype=torch.float64, requires_grad=True)
    geometry.depth_to_normal(empty, camera).sum().backward()
    assert empty.grad.isfinite().all()
    assert geometry.depth_to_normal(torch.ones(2, 5, 1), Camera(torch.eye(4), K.float(), 5, 2)).shape == (2, 5, 3)


@pytest.mark.parametrize("pitch_height", [-1.0, 0.5, 3.0])
def test_up_and_focus_of_a_ring(pitch_height):
    cameras = [
        camera_at((3 * math.cos(a), 3 * math.sin(a), pitch_height), (0.2, -0.1, 0.4)) for a in (0.0, 1.1, 2.9, 4.4)
    ]
    torch.testing.assert_close(geometry.up_axis(cameras), torch.tensor([0.0, 0.0, 1.0]).double(), atol=1e-4, rtol=0)
    focus = geometry.focus_point(cameras)
    assert float((focus - torch.tensor([0.2, -0.1, 0.4])).norm()) < 0.05


def test_up_axis_turns_with_the_world():
    turn = torch.from_numpy(Rotation.random(random_state=4).as_matrix())
    cameras = [camera_at((3 * math.cos(a), 3 * math.sin(a), 2.0), (0, 0, 0)) for a in (0.0, 1.0, 2.5)]
    turned = []
    for camera in cameras:
        c2w = camera.c2w.clone()
        c2w[:3] = turn @ c2w[:3]
        turned.append(Camera(invert_rigid(c2w), K, 40, 30))
    torch.testing.assert_close(geometry.up_axis(turned), turn @ geometry.up_axis(cameras), atol=1e-6, rtol=0)
    torch.testing.assert_close(geometry.focus_point(turned), turn @ geometry.focus_point(cameras), atol=1e-6, rtol=0)


def test_up_axis_where_all_look_one_way_and_downwards():
    cameras = [camera_at((x, 0.0, 2.0), (x, 2.0, 0.0)) for x in (-1.0, 0.0, 0.5)]
    up = geometry.up_axis(cameras)
    assert float(up @ -cameras[0].w2c[1, :3]) > 0.9


def test_focus_of_parallel_axes_lies_ahead():
    cameras = [camera_at((x, 0.0, 0.0), (x, 5.0, 0.0)) for x in (-1.0, 0.0, 1.0)]
    focus = geometry.focus_point(cameras)
    assert focus.isfinite().all()
    assert focus[1] > 0.1
    single = geometry.focus_point(cameras[:1])
    assert single.isfinite().all()
    assert single[1] > 0


def test_scene_extent_by_hand():
    cameras = [camera_at((x, 0.0, 0.0), (0.0, 5.0, 0.0)) for x in (-1.0, 3.0)]
    assert geometry.scene_extent(cameras) == pytest.approx(2.2)
    assert geometry.scene_extent(cameras[:1]) == 1.0


def test_nearest_views_come_in_order_and_ties_as_they_were_given():
    cameras = [camera_at((3 * math.cos(a), 3 * math.sin(a), 0.5), (0, 0, 0)) for a in (0.0, 2.0, 4.0, 2.0)]
    beside = camera_at((3 * math.cos(1.7), 3 * math.sin(1.7), 0.5), (0, 0, 0))
    assert geometry.nearest_views(beside, cameras, 3) == [1, 3, 0]
    assert geometry.nearest_views(beside, cameras, 9)[0] == geometry.nearest_view(beside, cameras)


def test_nearest_view():
    cameras = [camera_at((3 * math.cos(a), 3 * math.sin(a), 0.5), (0, 0, 0)) for a in (0.0, 2.0, 4.0)]
    for i, camera in enumerate(cameras):
        assert geometry.nearest_view(camera, cameras) == i
    beside = camera_at((3 * math.cos(1.7), 3 * math.sin(1.7), 0.5), (0, 0, 0))
    assert geometry.nearest_view(beside, cameras) == 1
    # at one place, direction decides
    twins = [camera_at((0.0, 0.0, 0.0), (1.0, 0.0, 0.0)), camera_at((0.0, 0.0, 0.0), (-1.0, 0.0, 0.0))]
    assert geometry.nearest_view(camera_at((0.0, 0.0, 0.0), (-1.0, 0.2, 0.0)), twins) == 1
