"""A patterned plate before a patterned wall, photographed with exact depth: small enough to be checked by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.inputs.source_views import ClipCameras, SourceView

WALL, PLATE, HALF = 4.0, 2.0, 0.45
"""World z of the wall and of the plate, and half of the plate's side; cameras look along +z."""


def intrinsics(width: int, height: int) -> Tensor:
    return torch.tensor([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1.0]])


def pose(position: tuple[float, float, float], yaw: float = 0.0) -> Tensor:
    """World to camera of a camera that looks along +z, turned by `yaw` radians about y."""
    c, s = math.cos(yaw), math.sin(yaw)
    w2c = torch.eye(4)
    w2c[:3, :3] = torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    w2c[:3, 3] = -w2c[:3, :3] @ torch.tensor(position, dtype=torch.float32)
    return w2c


def rays(w2c: Tensor, K: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Centre [3] and directions [H, W, 3] in the world, with z = 1 in the camera."""
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    return -w2c[:3, :3].T @ w2c[:3, 3], torch.stack([x, y, torch.ones_like(x)], -1) @ w2c[:3, :3]


def hits(centre: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distance along each ray [...] to what it meets, and whether that is the plate."""
    far, near = ((z - centre[2]) / directions[..., 2] for z in (WALL, PLATE))
    place = centre + directions * near[..., None]
    on_plate = (place[..., :2].abs() < HALF).all(-1) & (near > 0)
    return torch.where(on_plate, near, far), on_plate


def colours(points: Tensor) -> Tensor:
    """A smooth pattern in space."""
    return 0.5 + 0.4 * torch.sin(2.0 * points + points.roll(1, -1) + torch.tensor([0.0, 1.0, 2.0]))


def view(w2c: Tensor, K: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Colours [H, W, 3] and z-depth [H, W, 1]."""
    centre, directions = rays(w2c, K, height, width)
    depth = hits(centre, directions)[0][..., None]
    return colours(centre + directions * depth), depth


def photo(w2c: Tensor, width: int = 64, height: int = 48, confidence: float = 1.0) -> SourceView:
    K = intrinsics(width, height)
    rgb, depth = view(w2c, K, height, width)
    return SourceView(rgb, depth, torch.full_like(depth, confidence), w2c, K)


def clip_of(poses: list[Tensor], width: int = 64, height: int = 48) -> tuple[ClipCameras, Tensor, Tensor]:
    """Cameras, colours [T, H, W, 3] and depth [T, H, W, 1]."""
    K = intrinsics(width, height)
    seen = [view(w2c, K, height, width) for w2c in poses]
    cameras = ClipCameras(torch.stack(poses), K.expand(len(poses), 3, 3))
    return cameras, torch.stack([rgb for rgb, _ in seen]), torch.stack([depth for _, depth in seen])
