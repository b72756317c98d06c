"""New splats where repaired frames show surfaces that the splats lack: GenFusion's content expansion (where opacity is
low, or where floaters hide it), in every mode, checked against the captured views, thinned and capped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import project, unproject
from genfusion_ns.gaussians.keeper import SplatKeeper
from genfusion_ns.gaussians.parameters import init_gaussians
from genfusion_ns.loop.captured import SeenView
from genfusion_ns.loop.supervision.refine import RefinedFrame

EMPTY = 0.5
"""Opacity below which a render has nothing to show."""
BEHIND = 2.0
"""A repaired surface that lies this many times as far as the rendered one: what was rendered is a floater. With any
difference of 30 % or more instead (the official rule), splats that are right already are doubled: 3 photos of llff_fern
lose 0.4 dB and 8 % of LPIPS."""
BELIEVED = 0.1
"""Least confidence and agreement of a pixel that may become a splat."""
FREE = 0.1
"""A point that lies by this share nearer than what a captured view sees there stands in free space."""
VOXEL = 0.01
"""Side of the thinning grid's cells, in scene extents."""


@dataclass(frozen=True)
class Points:
    """Candidates for new splats."""

    xyz: Tensor
    """[M, 3] world."""
    rgb: Tensor
    """[M, 3] in [0, 1]."""
    confidence: Tensor
    """[M] in [0, 1]."""

    def __getitem__(self, rows: Tensor) -> Points:
        return Points(self.xyz[rows], self.rgb[rows], self.confidence[rows])


def missing_points(frame: RefinedFrame, views: Sequence[SeenView], unit: float) -> Points:
    """What a repaired frame shows and the splats do not, one point per cell of the thinning grid.

    Depths beyond the frame's own rendered range (by a factor of 3 past its 1st and 99th percentile) are not believed.

    Args:
        frame: with `metric` disparity; else nothing is known about places.
        views: captured views that must not see through a new point.
        unit: the scene's extent.
    """
    rows = torch.where(missing_region(frame).flatten())[0]
    depth = 1.0 / frame.disparity.clamp_min(1e-9)
    found = Points(
        unproject(depth, frame.camera).flatten(0, 1)[rows],
        frame.rgb.flatten(0, 1)[rows],
        (frame.agreement * frame.confidence).flatten()[rows],
    )
    for view in views:
        found = found[~in_free_space(found.xyz, view)]
    return thin(found, VOXEL * unit)


def missing_region(frame: RefinedFrame) -> Tensor:
    """[H, W] bool: pixels of a repaired frame that should become splats."""
    rendered = frame.depth > 1e-6
    solid = (frame.alpha >= EMPTY) & rendered
    if not frame.metric or frame.agreement < BELIEVED or not bool(solid.any()):
        return torch.zeros_like(solid[..., 0])
    measured = frame.depth[solid]
    near, far = (float(measured.kthvalue(max(1, math.ceil(q * len(measured)))).values) for q in (0.01, 0.99))
    depth = 1.0 / frame.disparity.clamp_min(1e-9)
    sane = (frame.disparity > 0) & (depth > near / 3.0) & (depth < far * 3.0)
    floats = solid & (depth > BEHIND * frame.depth)
    return (sane & (frame.confidence >= BELIEVED) & (~solid | floats))[..., 0]


def in_free_space(xyz: Tensor, view: SeenView) -> Tensor:
    """[M] bool: a captured view looks through the point at a solid surface behind it."""
    pixels, z = project(xyz, view.camera)
    grid = (pixels / pixels.new_tensor([view.camera.width, view.camera.height]) * 2.0 - 1.0).nan_to_num(2.0)
    shown = (grid.abs() <= 1.0).all(-1) & (z > 0)
    grid = grid.clamp(-2, 2)[None]
    maps = torch.cat([view.depth, view.alpha], -1).permute(2, 0, 1)[None]
    depth, alpha = F.grid_sample(maps, grid[None].to(maps), mode="nearest", align_corners=False)[0, :, 0]
    return shown & (alpha > EMPTY) & (z < (1.0 - FREE) * depth)


def thin(points: Points, side: float) -> Points:
    """The most believed point of each cell of a grid, by falling confidence."""
    points = points[points.confidence.argsort(descending=True, stable=True)]
    cells = torch.floor(points.xyz / side).long()
    _, cell = cells.unique(dim=0, return_inverse=True)
    first = torch.full((int(cell.max()) + 1 if len(cell) else 0,), len(cell), device=cell.device)
    first = first.scatter_reduce(0, cell, torch.arange(len(cell), device=cell.device), "amin")
    return points[first.sort().values]


def expand(found: Sequence[Points], unit: float, cap: int, splats: SplatKeeper, seed: int) -> int:
    """Append the most believed of all frames' points as splats, and return how many.

    Args:
        cap: at most so many.
        seed: of the splats' random orientations.
    """
    limit = min(cap, splats.room())
    if not found or limit < 1:
        return 0
    joined = Points(*(torch.cat([getattr(p, name).cpu() for p in found]) for name in ("xyz", "rgb", "confidence")))
    points = thin(joined, VOXEL * unit)
    points = points[torch.arange(min(limit, len(points.xyz)))]
    if not len(points.xyz):
        return 0
    new = init_gaussians(
        points.xyz, points.rgb, splats.sh_degree, seed=seed, max_scale=4.0 * VOXEL * unit, fallback_scale=VOXEL * unit
    )
    splats.append(new)
    return len(new["means"])
