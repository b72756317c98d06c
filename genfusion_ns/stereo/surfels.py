"""First splats on the surfaces that the photos' depths show.

Each splat is a pixel of a photo: its place is the pixel's depth, its normal the depth's gradient, its size the distance
to the neighbouring samples, its colour the photo's, its opacity grows with the confidence. Where the depth is doubtful
several smaller, fainter samples lie along the ray, as far apart as the error that the estimator expects, so that
training can choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import project, unproject
from genfusion_ns.geometry import depth_to_normal
from genfusion_ns.seeding import generator
from genfusion_ns.stereo.fusion import AGREE, sampled
from genfusion_ns.stereo.views import PhotoDepth, PosedPhoto

SURE = 0.5
"""Confidence from which one splat stands for a pixel."""
ALONG_RAY = (-1.2, 0.0, 1.2)
"""Places of the samples of a doubtful pixel, in expected errors."""
OPACITY = (0.1, 0.6)
"""Of splats at confidence 0 and 1."""
REPEATED = 0.2
"""Weight of a pixel whose surface an earlier photo shows already."""
DETAIL = 4.0
"""How many times likelier a pixel at a strong edge is sampled than one in a plain area."""


@dataclass(frozen=True)
class Surfels:
    """Splats to start from."""

    xyz: Tensor
    """[N, 3] world."""
    rgb: Tensor
    """[N, 3] in [0, 1]."""
    normals: Tensor
    """[N, 3] unit vectors towards the photo; 0 = unknown."""
    radii: Tensor
    """[N] world units: half of the distance to the next sample."""
    opacities: Tensor
    """[N] in (0, 1)."""

    def __getitem__(self, rows: Tensor) -> Surfels:
        return Surfels(self.xyz[rows], self.rgb[rows], self.normals[rows], self.radii[rows], self.opacities[rows])


def surfels_of(photos: Sequence[PosedPhoto], depths: Sequence[PhotoDepth], budget: int, seed: int) -> Surfels:
    """About `budget` splats for the surfaces that the photos show, more where there is detail, each surface once.

    Args:
        photos: with their cameras, in the order in which surfaces are claimed.
        depths: one per photo, of its size.
        budget: how many splats; doubtful pixels take several.
        seed: of the choice of pixels.
    """
    weights = [sampling_weight(i, photos, depths) for i in range(len(photos))]
    cost = [torch.where(d.confidence[..., 0] >= SURE, 1.0, float(len(ALONG_RAY))) for d in depths]
    spent = sum(float((w * c).sum()) for w, c in zip(weights, cost, strict=True))
    rate = budget / max(spent, 1e-9)
    parts = []
    for i, (photo, depth, weight) in enumerate(zip(photos, depths, weights, strict=True)):
        chance = (weight * rate).clamp_max(1.0)
        chosen = dithered(chance, generator(seed, "surfels", i))
        parts.append(_splats(photo, depth, chosen, chance))
    joined = Surfels(*(torch.cat(values) for values in zip(*(vars(p).values() for p in parts), strict=True)))
    if len(joined.xyz) > budget:
        keep = torch.randperm(len(joined.xyz), generator=generator(seed, "surfels kept"))[:budget].sort().values
        joined = joined[keep]
    return joined


def sampling_weight(i: int, photos: Sequence[PosedPhoto], depths: Sequence[PhotoDepth]) -> Tensor:
    """[H, W] how much the pixels of photo `i` are worth a splat: more at detail, less where earlier photos show the
    same surface."""
    grey = photos[i].rgb.mean(-1)[None, None]
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    gradient = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]).abs() + (
        padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    ).abs()
    strength = F.avg_pool2d(gradient, 3, 1, 1, count_include_pad=False)[0, 0]
    weight = 1 + (DETAIL - 1) * (strength / strength.quantile(0.95).clamp_min(1e-6)).clamp_max(1.0)
    points = unproject(depths[i].depth, photos[i].camera)
    for j in range(i):
        camera = photos[j].camera
        pixels, z = project(points, camera)
        grid = (2 * pixels / pixels.new_tensor([camera.width, camera.height]) - 1).nan_to_num(2.0).clamp(-2, 2)
        inside = ((grid.abs() <= 1).all(-1) & (z > 0))[..., None]
        shown = sampled(depths[j].depth, grid)
        same = inside & ((z[..., None] / shown.clamp_min(1e-12) - 1).abs() < AGREE)
        weight = torch.where(same[..., 0], weight * REPEATED, weight)
    return weight


def dithered(chance: Tensor, random: torch.Generator) -> Tensor:
    """[n] indices of pixels chosen with probability `chance` [H, W], evenly spread: systematic sampling along a curve
    through blocks of 8 x 8 pixels."""
    height, width = chance.shape
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    block = (v // 8) * (-(-width // 8)) + u // 8
    inner = torch.rand(height, width, generator=random)
    order = (block.double() + inner.double()).flatten().argsort()
    total = chance.flatten()[order].double().cumsum(0) + torch.rand((), generator=random).double()
    count = total.floor()
    picked = count.diff(prepend=torch.zeros(1, dtype=count.dtype)) >= 1
    return order[picked].sort().values


def _splats(photo: PosedPhoto, depth: PhotoDepth, chosen: Tensor, chance: Tensor) -> Surfels:
    """Splats of the chosen pixels: one each where the depth is sure, several along the ray where it is not."""
    camera = photo.camera
    z, confidence, spread = (x.flatten()[chosen] for x in depth.maps())
    rays = unproject(torch.ones_like(depth.depth), camera).flatten(0, 1)[chosen] - camera.position
    normals = depth_to_normal(depth.depth, camera).flatten(0, 1)[chosen]
    rgb = photo.rgb.flatten(0, 1)[chosen]
    focal = float((camera.K[0, 0] * camera.K[1, 1]).sqrt())
    radius = 0.5 * z / focal / chance.flatten()[chosen].clamp_min(1e-3).sqrt()
    low, high = OPACITY
    sure = confidence >= SURE
    opacity = low + (high - low) * confidence
    parts = [
        Surfels(camera.position + rays[sure] * z[sure, None], rgb[sure], normals[sure], radius[sure], opacity[sure])
    ]
    for step in ALONG_RAY:
        place = z * torch.exp(step * spread.clamp(0.02, 0.7))
        grown = radius * place / z
        there = camera.position + rays * place[:, None]
        none = torch.zeros_like(normals)
        part = Surfels(there, rgb, none, grown, opacity.clamp_max(low + (high - low) * 0.1))
        parts.append(part[~sure])
    return Surfels(*(torch.cat(values) for values in zip(*(vars(p).values() for p in parts), strict=True)))
