"""Which photos see the same part of a scene from well-placed views: the sources of a plane sweep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera, project
from genfusion_ns.stereo.posed_photos import PosedPhoto

GRID = 8
"""Rays per side that stand for a photo."""
DEPTHS = 6
"""Places along each ray, evenly spread in inverse depth."""
SMALLEST_ANGLE = 4.0
"""Degrees between two rays from which on a view is well placed; below, depth hardly moves anything."""
FEW_TRACKS = 30
"""With fewer tracks than this in a photo, its nearest surface probably has none."""
WIDEST_ANGLE = 70.0
"""Degrees at which two photos of a surface have little left in common."""


def choose_sources(photos: Sequence[PosedPhoto], count: int) -> list[list[int]]:
    """For each photo the `count` others (or fewer, where there are no more) that share most with it, best first."""
    ranges = [working_range(photo) for photo in photos]
    chosen = []
    for i, photo in enumerate(photos):
        points = frustum_points(photo.camera, *ranges[i])
        scores = torch.tensor(
            [-1.0 if j == i else overlap(points, photo.camera, other.camera) for j, other in enumerate(photos)]
        )
        chosen.append([int(j) for j in scores.argsort(descending=True, stable=True)[:count] if int(j) != i])
    return chosen


def working_range(photo: PosedPhoto) -> tuple[float, float]:
    """Nearest and farthest depth of a photo: from its tracks where it has some, else from the cameras."""
    near, far = photo.depth_bounds
    if len(photo.track_depths) >= FEW_TRACKS:
        near, far = (float(photo.track_depths.quantile(q)) for q in (0.02, 0.98))
    return near, far


def frustum_points(camera: Camera, near: float, far: float) -> Tensor:
    """[P, 3] world points on a grid of rays, spread evenly in inverse depth between near and far."""
    across = (torch.arange(GRID) + 0.5) / GRID
    v, u = torch.meshgrid(across * camera.height, across * camera.width, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], -1).reshape(-1, 3) @ torch.linalg.inv(camera.K).T
    depth = 1.0 / torch.linspace(1.0 / near, 1.0 / far, DEPTHS)
    local = rays[:, None] * depth[None, :, None]
    return ((local - camera.w2c[:3, 3]) @ camera.w2c[:3, :3]).reshape(-1, 3)


def overlap(points: Tensor, camera: Camera, other: Camera) -> float:
    """Mean over the points [P, 3] of how well `other` is placed to match them: 0 where it does not see them, less at
    angles below SMALLEST_ANGLE and towards WIDEST_ANGLE."""
    pixels, depth = project(points, other)
    inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels < pixels.new_tensor([other.width, other.height])).all(-1)
    a, b = (torch.nn.functional.normalize(points - c.position, dim=-1) for c in (camera, other))
    angle = torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1)))
    placed = (angle / SMALLEST_ANGLE).clamp_max(1.0) * ((WIDEST_ANGLE - angle) / WIDEST_ANGLE).clamp_min(0.0)
    # a turned view of the same place counts a little even without parallax, as context
    return float((inside * (placed + 0.01)).mean())
