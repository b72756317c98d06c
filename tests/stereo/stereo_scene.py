"""A patterned ball before a patterned far wall, photographed with exact depth."""

from __future__ import annotations

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera, invert_rigid, look_at, pixel_rays
from genfusion_ns.stereo.posed_photos import PhotoDepth, PosedPhoto


def camera_at(position: tuple[float, float, float], width: int = 48, height: int = 32) -> Camera:
    """A camera that looks at the origin, z up."""
    c2w = look_at(*(torch.tensor(v, dtype=torch.float64) for v in (position, (0.0, 0.0, 0.0), (0.0, 0.0, 1.0))))
    K = torch.tensor([[float(width), 0, width / 2], [0, float(width), height / 2], [0, 0, 1]])
    return Camera(invert_rigid(c2w).float(), K, width, height)


def exact_depth(camera: Camera) -> Tensor:
    """[H, W, 1] z-depth of a unit ball at the origin, and of the inside of a ball of radius 6 around it."""
    ray = pixel_rays(camera) @ camera.w2c[:3, :3]
    b, a, o = ray @ camera.position, ray.square().sum(-1), camera.position @ camera.position
    near = b * b - a * (o - 1.0)
    far = (-b + (b * b - a * (o - 36.0)).clamp_min(0).sqrt()) / a
    return torch.where(near > 0, (-b - near.clamp_min(0).sqrt()) / a, far)[..., None]


def colours(points: Tensor) -> Tensor:
    """A fixed pattern in space [..., 3] in [0, 1]."""
    return 0.5 + 0.4 * torch.sin(5.0 * points + 2.0 * points.roll(1, -1) + torch.tensor([0.0, 1.0, 2.0]))


def photo_at(position: tuple[float, float, float], width: int = 48, height: int = 32) -> tuple[PosedPhoto, Tensor]:
    """A photo without tracks, and its exact depth [H, W, 1]."""
    camera = camera_at(position, width, height)
    depth = exact_depth(camera)
    points = camera.position + (pixel_rays(camera) * depth) @ camera.w2c[:3, :3]
    empty = torch.zeros(0)
    return PosedPhoto(camera, colours(points), empty.reshape(0, 2), empty, (1.0, 9.0)), depth


def certain(depth: Tensor, confidence: float = 1.0) -> PhotoDepth:
    """An estimate with one confidence everywhere."""
    return PhotoDepth(depth, torch.full_like(depth, confidence), torch.full_like(depth, 0.02))
