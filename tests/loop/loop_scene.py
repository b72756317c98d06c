"""Cameras, and renders without a rasteriser."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera, invert_rigid, look_at, pixel_rays
from genfusion_ns.geometry import focus_point, positions
from genfusion_ns.raster.api import Render
from genfusion_ns.seeding import generator

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


def textured(camera: Camera, offset: float = 0.0, radius: float = 1.0, depth_scale: float = 1.0) -> Render:
    """The ball with a fine pattern on it before a far wall of a smooth one; `depth_scale` falsifies the depth."""
    near = ball_of(camera, radius)
    ray = pixel_rays(camera) @ camera.w2c[:3, :3]
    # the inside of a ball of radius 6 all around
    b, a, c = ray @ camera.position, ray.square().sum(-1), camera.position @ camera.position - 36.0
    far = ((-b + (b * b - a * c).clamp_min(0).sqrt()) / a)[..., None]
    depth = torch.where(near.depth > 0, near.depth, far)
    points = camera.position + ray * depth
    fine = 0.5 + 0.4 * torch.sin(4.0 * points + torch.tensor([0.0, 1.0, 2.0]) + offset)
    smooth = 0.5 + 0.3 * torch.sin(0.5 * points + torch.tensor([2.0, 0.0, 4.0]) + offset)
    color = torch.where(near.depth > 0, fine, smooth).clamp(0, 1)
    empty = torch.zeros(0)
    depth = depth * depth_scale
    return Render(color, torch.ones_like(depth), depth, depth, torch.zeros_like(color), 0 * depth, empty, empty)


def ball_of(camera: Camera, radius: float) -> Render:
    """A ball of another radius at the origin."""
    w2c = camera.w2c.clone()
    w2c[:3, 3] = w2c[:3, 3] / radius
    small = ball(Camera(w2c, camera.K, camera.width, camera.height))
    return Render(
        small.color, small.alpha, small.depth * radius, small.median_depth * radius, *list(vars(small).values())[4:]
    )


def points_in_view(cameras: Sequence[Camera], n: int) -> tuple[Tensor, Tensor]:
    """Grey points xyz, rgb [n, 3] inside the views' frusta: in each a uniform pixel, and a depth whose logarithm is
    uniform from 0.3 to 3 times the median distance from the point that the cameras look at."""
    distance = float((positions(cameras) - focus_point(cameras)).norm(dim=-1).median())
    random = torch.rand(n, 3, generator=generator(0, "points in view"))
    depth = 0.3 * distance * 10.0 ** random[:, 2]
    xyz = torch.empty(n, 3)
    for i, camera in enumerate(cameras):
        rows = slice(i, None, len(cameras))
        corner, opposite = pixel_rays(camera)[0, 0], pixel_rays(camera)[-1, -1]
        rays = torch.ones(len(xyz[rows]), 3)
        rays[:, :2] = corner[:2] + random[rows, :2] * (opposite - corner)[:2]
        xyz[rows] = (rays * depth[rows, None]) @ camera.c2w[:3, :3].T.float() + camera.c2w[:3, 3].float()
    return xyz, torch.full((n, 3), 0.5)
