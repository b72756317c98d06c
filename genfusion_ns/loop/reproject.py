"""Photos seen from elsewhere, through the surface that the splats show in both views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import Camera, project, unproject
from genfusion_ns.loop.captured import SeenView

SAME_SURFACE = 0.03
"""Two depths of one surface differ by at most this share."""
CLOSE_ANGLE = math.radians(6.0)
"""Rays that meet under this angle, or less: an error in depth hardly moves the photo's pixel."""
AGREEMENT = 0.04
"""Standard deviation of photos' colours at one point that still counts as agreement."""
NEAR_ANGLE = math.radians(20.0)
"""Rays that meet under this angle look e times less alike than the same."""
ANCHORED = 1e-3
"""Cameras this near to each other, in scene extents, are one: photos then fit without any depth."""


@dataclass(frozen=True)
class Reprojection:
    """What the photos show in another view."""

    rgb: Tensor
    """[H, W, 3] in [0, 1]; 0 where no photo reaches."""
    trust: Tensor
    """[H, W, 1] in [0, 1]: how surely these colours belong there. 1 where a photo was taken from this very place; high
    where one was taken from almost the same direction, or where several agree; else low, since a photo always agrees
    with splats that were fitted to it, be their depth right or wrong."""
    seen: Tensor
    """[H, W, 1] in [0, 1]: opacity of surfaces that some photo shows at all."""
    near: Tensor
    """[H, W, 1] in [0, 1]: from how near a direction some photo looks at the place, be it hidden there or not; 1 = the
    same, 0 = the place is in no photo's frame. The farther, the less the splats can be trusted to look right."""


def reproject(
    camera: Camera, depth: Tensor, alpha: Tensor, views: Sequence[SeenView], unit: float = 1.0
) -> Reprojection:
    """Photos warped into `camera`, where both views see the same surface.

    Args:
        depth, alpha: [H, W, 1] the splats in this view; depth 0 = hole.
        views: captured views on the same device.
        unit: the scene's extent.
    """
    hit = depth > 1e-6
    points = unproject(torch.where(hit, depth, torch.full_like(depth, 10.0 * unit)), camera)
    solid = alpha * hit
    total, colour, square = (torch.zeros(*depth.shape[:2], c).to(depth) for c in (1, 3, 3))
    count, mean, seen, trust, near = (torch.zeros(*depth.shape[:2], c).to(depth) for c in (1, 3, 1, 1, 1))
    for view in views:
        place = _inside(points, view.camera)
        photo, reached = _colour(place, view)
        visible = reached * _same_surface(place, view) * solid
        angle = parallax(points, camera, view.camera)
        close = closeness(angle)
        if float((camera.position - view.camera.position).norm()) < ANCHORED * unit:
            visible = reached
            trust, close = torch.maximum(trust, visible), torch.full_like(close, 1e4)
        weight = visible * (close + 0.01)
        total, colour = total + weight, colour + weight * photo
        count, mean, square = count + visible, mean + visible * photo, square + visible * photo.square()
        trust = torch.maximum(trust, visible * close.clamp_max(1.0))
        seen = torch.maximum(seen, visible)
        near = torch.maximum(near, reached * torch.exp(-angle / NEAR_ANGLE))
    mean = mean / count.clamp_min(1.0)
    deviation = (square / count.clamp_min(1.0) - mean.square()).clamp_min(0).mean(-1, keepdim=True).sqrt()
    agreed = torch.exp(-(deviation / AGREEMENT).square()) * (count > 1.5)
    return Reprojection(colour / total.clamp_min(1e-8), torch.maximum(trust, 0.9 * agreed * seen), seen, near)


Place = tuple[Tensor, Tensor, Tensor]
"""Where points lie in a photo, see `_inside`."""


def _inside(points: Tensor, camera: Camera) -> Place:
    """Sampling grid [H, W, 2] in [-1, 1], whether it lies in the image [H, W, 1] (1.0 or 0.0), and z-depth."""
    pixels, z = project(points, camera)
    grid = pixels / pixels.new_tensor([camera.width, camera.height]) * 2.0 - 1.0
    inside = (grid.abs() <= 1.0).all(-1) & (z > 0)
    return grid.nan_to_num(2.0).clamp(-2, 2), inside[..., None].to(points), z[..., None]


def sample(values: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """[h, w, C] looked up at [H, W, 2] positions in [-1, 1] (the borders of the outer pixels) -> [H, W, C]."""
    batch = values.permute(2, 0, 1)[None]
    found = F.grid_sample(batch, grid[None].to(values), mode=mode, padding_mode="border", align_corners=False)
    return found[0].permute(1, 2, 0)


def look_up(points: Tensor, view: SeenView) -> tuple[Tensor, Tensor]:
    """The photo's colour [H, W, 3] where it has world points [H, W, 3], and whether it has them at all [H, W, 1], 1.0
    or 0.0: in the frame, before the camera, and known."""
    return _colour(_inside(points, view.camera), view)


def _colour(place: Place, view: SeenView) -> tuple[Tensor, Tensor]:
    """As `look_up`, of points whose place in the photo is known."""
    grid, inside, _ = place
    known = 1.0 if view.known is None else sample(view.known.to(grid), grid, "nearest")
    return sample(view.photo.to(grid), grid), inside * known


def _same_surface(place: Place, view: SeenView) -> Tensor:
    """[H, W, 1] in [0, 1]: how far the splats show the points from the photo's place too."""
    grid, _, z = place
    depth, alpha = sample(view.depth, grid, "nearest"), sample(view.alpha, grid, "nearest")
    same = (depth > 1e-6) & ((depth - z).abs() <= SAME_SURFACE * z)
    return same * alpha


def parallax(points: Tensor, a: Camera, b: Camera) -> Tensor:
    """[H, W, 1] the angle in radians between the rays from two cameras to points [H, W, 3]."""
    cosine = (F.normalize(points - a.position, dim=-1) * F.normalize(points - b.position, dim=-1)).sum(-1, keepdim=True)
    return torch.arccos(cosine.clamp(-1, 1))


def closeness(angle: Tensor) -> Tensor:
    """exp(-(angle / CLOSE_ANGLE)^2): how little an error in depth moves the pixel of a photo taken from there."""
    return torch.exp(-(angle / CLOSE_ANGLE).square())
