"""`cameras`: transforms, axes, pixels; checked on random poses and by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from genfusion_ns.cameras import Camera, invert_rigid, look_at, opengl_to_opencv, pixel_rays, project, unproject

finite = st.floats(-10, 10)
seeds = st.integers(0, 2**31)


def random_camera(seed: int, width: int = 40, height: int = 30) -> Camera:
    gen = torch.Generator().manual_seed(seed)
    w2c = torch.eye(4, dtype=torch.float64)
    w2c[:3, :3] = torch.from_numpy(Rotation.random(random_state=seed % 2**31).as_matrix())
    w2c[:3, 3] = torch.randn(3, generator=gen, dtype=torch.float64)
    fx, fy, cx, cy = (torch.rand(4, generator=gen, dtype=torch.float64) * 30 + 15).tolist()
    K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    return Camera(w2c, K, width, height)


@given(seeds)
def test_inverse_takes_points_back(seed):
    pose = random_camera(seed).w2c
    points = torch.randn(5, 4, dtype=torch.float64)
    points[:, 3] = 1
    torch.testing.assert_close(points @ pose.T @ invert_rigid(pose).T, points)
    torch.testing.assert_close(invert_rigid(pose), torch.linalg.inv(pose))


@given(seeds)
def test_c2w_and_position_agree_with_w2c(seed):
    camera = random_camera(seed)
    torch.testing.assert_close(camera.c2w[:3, 3], camera.position)
    torch.testing.assert_close(camera.w2c @ camera.c2w, torch.eye(4, dtype=torch.float64))


@given(seeds)
def test_opengl_bridge_is_its_own_inverse_and_keeps_handedness(seed):
    c2w = random_camera(seed).c2w
    other = opengl_to_opencv(c2w)
    torch.testing.assert_close(opengl_to_opencv(other), c2w)
    assert torch.linalg.det(other[:3, :3]) == pytest.approx(1.0)
    torch.testing.assert_close(other[:3, 3], c2w[:3, 3])
    torch.testing.assert_close(other[:3, 0], c2w[:3, 0])
    torch.testing.assert_close(other[:3, 2], -c2w[:3, 2])


@given(seeds)
def test_project_inverts_unproject(seed):
    camera = random_camera(seed)
    depth = torch.rand(camera.height, camera.width, 1, dtype=torch.float64) + 0.1
    pixels, z = project(unproject(depth, camera), camera)
    torch.testing.assert_close(z, depth[..., 0])
    grid = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    torch.testing.assert_close(pixels, torch.stack([grid[1], grid[0]], -1).double() + 0.5, atol=1e-7, rtol=1e-7)


@given(seeds, st.integers(5, 80), st.integers(5, 80))
def test_resizing_commutes_with_projection(seed, width, height):
    camera = random_camera(seed)
    points = torch.randn(20, 3, dtype=torch.float64)
    pixels, _ = project(points, camera)
    resized, _ = project(points, camera.resized(width, height))
    scale = torch.tensor([width / camera.width, height / camera.height], dtype=torch.float64)
    torch.testing.assert_close(resized, pixels * scale, rtol=1e-6, atol=1e-6)


@given(seeds, st.integers(-20, 20), st.integers(-20, 20))
def test_cropping_commutes_with_projection(seed, x, y):
    camera = random_camera(seed)
    points = torch.randn(20, 3, dtype=torch.float64)
    pixels, _ = project(points, camera)
    window, _ = project(points, camera.window(x, y, 12, 9))
    torch.testing.assert_close(window, pixels - torch.tensor([x, y]), rtol=1e-6, atol=1e-6)


@given(st.tuples(finite, finite, finite), st.tuples(finite, finite, finite))
def test_look_at_looks_at(position, target):
    position, target = torch.tensor(position, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    gap = target - position
    if gap[:2].norm() < 1e-3 * max(1.0, float(gap.norm())):
        return  # looks along the up axis, refused in the next test
    c2w = look_at(position, target, up)
    torch.testing.assert_close(c2w[:3, :3] @ c2w[:3, :3].T, torch.eye(3, dtype=torch.float64), atol=1e-9, rtol=0)
    assert torch.linalg.det(c2w[:3, :3]) == pytest.approx(1.0)
    camera = Camera(invert_rigid(c2w), torch.eye(3, dtype=torch.float64), 1, 1)
    pixel, depth = project(target, camera)
    torch.testing.assert_close(pixel, torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert float(depth) == pytest.approx(float(gap.norm()))
    assert c2w[2, 1] < 0  # y points down


@pytest.mark.parametrize("target", [(0.0, 0.0, 0.0), (0.0, 0.0, 5.0)])
def test_look_at_refuses_what_has_no_answer(target):
    with pytest.raises(ValueError, match="lie on one line"):
        look_at(torch.zeros(3), torch.tensor(target), torch.tensor([0.0, 0.0, 1.0]))


def test_pixel_rays_by_hand():
    camera = Camera(torch.eye(4), torch.tensor([[2.0, 0, 1.0], [0, 4.0, 1.0], [0, 0, 1]]), 2, 2)
    expected = [[[-0.25, -0.125, 1], [0.25, -0.125, 1]], [[-0.25, 0.125, 1], [0.25, 0.125, 1]]]
    torch.testing.assert_close(pixel_rays(camera), torch.tensor(expected))


def test_projection_behind_and_at_the_camera_stays_finite():
    camera = random_camera(0)
    pixels, depth = project(torch.stack([camera.position, camera.position - camera.w2c[2, :3]]), camera)
    assert pixels.isfinite().all()
    assert depth[0].abs() < 1e-9
    assert float(depth[1]) == pytest.approx(-1.0)


def test_to_changes_dtype_only():
    camera = random_camera(1).to(dtype=torch.float32)
    assert camera.w2c.dtype == camera.K.dtype == torch.float32
    assert math.isclose(float(camera.K[2, 2]), 1.0)


def test_limited_views_keep_their_field_and_small_ones_their_size():
    K = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    camera = Camera(torch.eye(4), K, 640, 480)
    half = camera.limited(320)
    assert (half.width, half.height) == (320, 240)
    torch.testing.assert_close(half.K, torch.tensor([[250.0, 0, 160], [0, 250, 120], [0, 0, 1]]))
    same = camera.limited(1000)
    assert (same.width, same.height) == (640, 480) and torch.equal(same.K, K)
    sliver = Camera(torch.eye(4), K, 2000, 3).limited(16)
    assert (sliver.width, sliver.height) == (16, 1)
