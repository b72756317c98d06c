"""`mesh`: a ball of known size and place comes out as one."""

import math

import numpy as np
import pytest
import torch

from genfusion_ns.cameras import Camera, invert_rigid, look_at, pixel_rays
from genfusion_ns.errors import UserError
from genfusion_ns.gaussians.mesh import fuse_mesh, keep_largest, trim_depth

o3d = pytest.importorskip("open3d")
CENTRE, RADIUS = torch.tensor([0.3, -0.2, 0.1]), 0.5
BOX = torch.tensor([[-0.4, -0.9, -0.6], [1.0, 0.5, 0.8]])


def view(angle: float, height: float, width: int = 120, wall: bool = False):
    """A ball in front of nothing, or of a wall of sky; the principal point is off centre."""
    position = CENTRE + 2 * torch.tensor([math.cos(angle), math.sin(angle), height])
    w2c = invert_rigid(look_at(position, CENTRE, torch.tensor([0.0, 0, 1])))
    rows = width * 3 // 4
    K = torch.tensor([[1.5 * width, 0, 0.55 * width], [0, 1.5 * width, 0.45 * rows], [0, 0, 1]])
    camera = Camera(w2c, K, width, rows)
    ray = pixel_rays(camera) @ w2c[:3, :3]
    offset = position - CENTRE
    b, a, c = ray @ offset, ray.square().sum(-1), offset @ offset - RADIUS**2
    disc = b * b - a * c
    hit = (disc > 0)[..., None]
    depth = torch.where(hit, ((-b - disc.clamp_min(0).sqrt()) / a)[..., None], 50.0 if wall else 0.0)
    rgb = torch.tensor([0.8, 0.4, 0.2]).expand(rows, width, 3)
    return camera, rgb, depth, hit.float() if not wall else torch.ones_like(depth)


def ball_views(count: int = 14, **kwargs):
    return [view(2 * math.pi * i / 7, height, **kwargs) for i in range(count // 2) for height in (-0.8, 0.8)]


@pytest.fixture(scope="module")
def ball_mesh():
    return fuse_mesh(ball_views(), BOX, voxel_size=0.02)


def test_surface_is_where_it_should_be(ball_mesh):
    vertices = torch.from_numpy(np.asarray(ball_mesh.vertices)).float()
    assert len(vertices) > 1000
    distance = (vertices - CENTRE).norm(dim=-1)
    # a pixel convention off by a half would shift it by 1/4 of a voxel everywhere, and blur it
    assert float(distance.mean()) == pytest.approx(RADIUS, abs=0.003)
    assert float((distance - RADIUS).abs().max()) < 0.02
    assert float((vertices.mean(0) - CENTRE).norm()) < 0.01


def test_mesh_is_coloured_and_points_outwards(ball_mesh):
    colors = np.asarray(ball_mesh.vertex_colors)
    assert np.abs(colors - [0.8, 0.4, 0.2]).max() < 0.01
    vertices, normals = np.asarray(ball_mesh.vertices), np.asarray(ball_mesh.vertex_normals)
    outward = ((vertices - CENTRE.numpy()) * normals).sum(1)
    assert (outward > 0.8 * RADIUS).mean() > 0.99
    assert len(ball_mesh.cluster_connected_triangles()[1]) == 1


def test_pixels_are_where_our_cameras_say():
    # a ball seen by one view: the least-squares sphere through its cap must not move aside with the pixel size
    camera, rgb, depth, alpha = view(0.0, 0.0, width=60)
    mesh = fuse_mesh([(camera, rgb, depth, alpha)], BOX, voxel_size=0.02)
    vertices = torch.from_numpy(np.asarray(mesh.vertices)).double()
    design = torch.cat([2 * vertices, torch.ones(len(vertices), 1).double()], dim=1)
    fitted = torch.linalg.lstsq(design, vertices.square().sum(1, keepdim=True)).solution[:3, 0]
    aside = camera.w2c[:2, :3].double() @ (fitted - CENTRE)
    half_a_pixel = 0.5 * 2.0 / float(camera.K[0, 0])
    assert aside.abs().max() < 0.4 * half_a_pixel


def test_bounds_cut():
    box = BOX.clone()
    box[1, 2] = float(CENTRE[2])
    mesh = fuse_mesh(ball_views(), box, voxel_size=0.02)
    assert np.asarray(mesh.vertices)[:, 2].max() <= float(CENTRE[2]) + 1e-6
    assert np.asarray(mesh.vertices)[:, 2].min() == pytest.approx(float(CENTRE[2]) - RADIUS, abs=0.02)


def test_sky_holes_and_nan_leave_no_surface():
    dirty = []
    for camera, rgb, depth, alpha in ball_views(wall=True):
        depth[::7, ::5] = math.nan
        alpha[::5, ::7] = 0.1
        dirty.append((camera, rgb, depth, alpha))
    mesh = fuse_mesh(dirty, BOX, voxel_size=0.04)
    distance = (torch.from_numpy(np.asarray(mesh.vertices)).float() - CENTRE).norm(dim=-1)
    assert float((distance - RADIUS).abs().max()) < 0.04


def test_trim_depth():
    camera, _, depth, alpha = view(0.0, 0.0, width=40)
    low, high = BOX
    whole = trim_depth(camera, depth, alpha, low, high, math.inf, 0.5)
    assert torch.equal(whole, depth)
    near = trim_depth(camera, depth, alpha, low, high, depth_trunc=1.6, min_alpha=0.5)
    assert 0 < int((near > 0).sum()) < int((depth > 0).sum())
    assert near.max() <= 1.6
    assert trim_depth(camera, depth, 0.4 * alpha, low, high, math.inf, 0.5).max() == 0
    assert trim_depth(camera, depth, alpha, low + 9, high + 9, math.inf, 0.5).max() == 0


def test_largest_pieces_are_kept():
    mesh = o3d.geometry.TriangleMesh.create_sphere(1.0)
    for i in range(4):
        mesh += o3d.geometry.TriangleMesh.create_box().translate((5.0 * (i + 1), 0, 0))
    size = len(o3d.geometry.TriangleMesh.create_sphere(1.0).triangles)
    keep_largest(mesh, 1)
    assert len(mesh.triangles) == size
    assert np.asarray(mesh.vertices)[:, 0].max() < 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bounds": BOX.flip(0)}, "the bounds are .*the first below the second"),
        ({"bounds": torch.full((2, 3), math.nan)}, "the bounds are"),
        ({"voxel_size": 1e-6}, "the voxel size is 1e-06 in a box of 1.4; expected between"),
        ({"voxel_size": 9.0}, "the voxel size is 9"),
        ({"bounds": BOX + 20}, "no rendered depth lies inside the bounds"),
        ({"views": []}, "no rendered depth lies inside the bounds"),
    ],
)
def test_what_gives_no_mesh_is_a_message(change, message):
    arguments = {"views": ball_views(2, width=40), "bounds": BOX, "voxel_size": 0.1}
    with pytest.raises(UserError, match=message):
        fuse_mesh(**{**arguments, **change})
