"""Geometry of depth maps and of sets of cameras; pure functions, OpenCV axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import Camera, unproject


def depth_to_normal(depth: Tensor, camera: Camera) -> Tensor:
    """World normals of the surface that a depth map shows, facing the camera.

    Cross product of the central differences of the unprojected points (2D Gaussian Splatting, eq. 15). The border of
    one pixel, and pixels with a hole among their four neighbours, get 0.

    Args:
        depth: [H, W, 1] z-depth in world units; 0 = hole.

    Returns:
        [H, W, 3], of length 1 or 0.
    """
    if depth.shape[0] < 3 or depth.shape[1] < 3:
        return torch.zeros(*depth.shape[:2], 3, dtype=depth.dtype, device=depth.device)
    points = unproject(depth, camera)
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    # x right and y down: down x across points from the surface back to the camera
    normal = F.normalize(torch.linalg.cross(down, across), dim=-1, eps=1e-20)
    seen = depth > 0
    whole = seen[1:-1, 2:] & seen[1:-1, :-2] & seen[2:, 1:-1] & seen[:-2, 1:-1]
    return F.pad(normal * whole, (0, 0, 1, 1, 1, 1))


def positions(cameras: Sequence[Camera]) -> Tensor:
    """[V, 3] camera centres."""
    return torch.stack([camera.position for camera in cameras])


def directions(cameras: Sequence[Camera]) -> Tensor:
    """[V, 3] unit viewing directions."""
    return torch.stack([camera.w2c[2, :3] for camera in cameras])


def scene_extent(cameras: Sequence[Camera]) -> float:
    """1.1 times the largest distance of a camera from the cameras' mean (3DGS's unit of length), never 0."""
    centres = positions(cameras)
    extent = 1.1 * float((centres - centres.mean(0)).norm(dim=-1).max())
    return extent if extent > 1e-6 else 1.0


def up_axis(cameras: Sequence[Camera]) -> Tensor:
    """[3] unit vector that the photographers held upright.

    Nobody rolls a camera much, so up is the axis most nearly perpendicular to every camera's x axis: the smallest
    eigenvector of sum(x x^T). Where those leave it open (all cameras look the same way), the mean of the image-up
    vectors decides. It also gives the sign, or, where it says nothing either (looking down in all headings), the mean
    viewing direction does: it is down then.
    """
    right = torch.stack([camera.w2c[0, :3] for camera in cameras]).double()
    image_up = -torch.stack([camera.w2c[1, :3] for camera in cameras]).double()
    mean_up = image_up.mean(0)
    scatter = right.T @ right / len(right) - 1e-3 * torch.outer(mean_up, mean_up)
    axis = torch.linalg.eigh(scatter).eigenvectors[:, 0]
    upright = axis @ mean_up
    if abs(upright) < 0.01:
        upright = -(axis @ directions(cameras).double().mean(0))
    return (-axis if upright < 0 else axis).to(cameras[0].w2c)


def focus_point(cameras: Sequence[Camera]) -> Tensor:
    """[3] the point nearest to all optical axes in the least-squares sense.

    Parallel axes meet nowhere; a weak pull towards a point ahead of the cameras, by the spread of the cameras, keeps
    the answer finite and in front of them.
    """
    centres, axes = positions(cameras).double(), directions(cameras).double()
    spread = float((centres - centres.mean(0)).norm(dim=-1).mean())
    prior = centres.mean(0) + max(spread, 1e-3) * F.normalize(axes.mean(0), dim=0)
    off_axis = torch.eye(3, dtype=torch.float64, device=axes.device) - axes[:, :, None] * axes[:, None, :]
    pull = 1e-3 * torch.eye(3, dtype=torch.float64, device=axes.device)
    matrix = off_axis.mean(0) + pull
    target = (off_axis @ centres[..., None]).mean(0)[:, 0] + pull @ prior
    return torch.linalg.solve(matrix, target).to(cameras[0].w2c)


def nearest_view(camera: Camera, cameras: Sequence[Camera]) -> int:
    """Index of the captured view most like `camera`, by `view_distance`."""
    return int(view_distance(camera, cameras).argmin())


def nearest_views(camera: Camera, cameras: Sequence[Camera], n: int) -> list[int]:
    """Indices of the n captured views most like `camera`, the nearest first, ties in their order."""
    return [int(i) for i in view_distance(camera, cameras).argsort(stable=True)[:n]]


def view_distance(camera: Camera, cameras: Sequence[Camera]) -> Tensor:
    """[V] how unlike `camera` each captured view is: distance over the scene extent, plus half of 1 - cos(angle)."""
    distance = (positions(cameras) - camera.position).norm(dim=-1) / scene_extent(cameras)
    turn = 1.0 - directions(cameras) @ camera.w2c[2, :3]
    return distance + 0.5 * turn
