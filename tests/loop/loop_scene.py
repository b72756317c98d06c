"""Cameras, and renders without a rasteriser."""

import torch

from genfusion_ns.cameras import Camera, invert_rigid, look_at, pixel_rays
from genfusion_ns.raster.api import Render

K = torch.tensor([[30.0, 0, 16.0], [0, 30.0, 12.0], [0, 0, 1]])


def aimed(position, target=(0.0, 0.0, 0.0), up=(0.0, 0.0, 1.0), width: int = 32, height: int = 24) -> Camera:
    c2w = look_at(*(torch.tensor(v, dtype=torch.float64) for v in (position, target, up)))
    return Camera(invert_rigid(c2w).float(), K.clone(), width, height)


def ball(camera: Camera) -> Render:
    """A unit ball at the origin, coloured by position; the rest is empty."""
    ray = pixel_rays(camera) @ camera.w2c[:3, :3]
    b, a, c = ray @ camera.position, ray.square().sum(-1), camera.position @ camera.position - 1.0
    disc = b * b - a * c
    depth = torch.where(disc > 0, (-b - disc.clamp_min(0).sqrt()) / a, 0.0)[..., None]
    hit = (depth > 0).float()
    color = (0.5 + 0.5 * (camera.position + ray * depth)).clamp(0, 1) * hit
    empty = torch.zeros(0)
    return Render(color, 0.9 * hit, depth, depth, torch.zeros_like(color), 0 * depth, empty, empty)
