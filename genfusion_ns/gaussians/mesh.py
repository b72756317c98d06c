"""A triangle mesh from rendered depth: fusion into a truncated signed distance field, through Open3D."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genfusion_ns.cameras import Camera, unproject
from genfusion_ns.errors import UserError

if TYPE_CHECKING:
    import open3d as o3d

log = logging.getLogger(__name__)

MAX_VOXELS_PER_SIDE = 4096
_TRUNCATION = 4.0
"""Voxels."""
View = tuple[Camera, Tensor, Tensor, Tensor]
"""Camera, rgb [H, W, 3] in [0, 1], z-depth [H, W, 1] (0 = hole), alpha [H, W, 1]."""


def fuse_mesh(
    views: Iterable[View],
    bounds: Tensor,
    voxel_size: float | None = None,
    *,
    depth_trunc: float = math.inf,
    min_alpha: float = 0.5,
    clusters: int = 50,
) -> o3d.geometry.TriangleMesh:
    """Fuse depth maps into a coloured mesh (Curless and Levoy 1996, Open3D's voxel blocks).

    Args:
        views: rendered one by one; only one needs to be in memory.
        bounds: [2, 3] lowest and highest corner of the box that is meshed; what lies outside is left out.
        voxel_size: world units; by default 1/256 of the longest side of the box. Distances are
            truncated at 4 voxels.
        depth_trunc: depths beyond this are left out, world units.
        min_alpha: pixels less covered than this are left out.
        clusters: how many connected pieces are kept, the largest first; 0 keeps all.

    Raises:
        UserError: bounds are not a box, the voxels are too small for it, or nothing lies inside.
    """
    import open3d as o3d

    low, high = _checked_bounds(bounds)
    voxel_size = _checked_voxel(float((high - low).max()), voxel_size)
    float32 = o3d.core.float32
    channels: Any = (1, 1, 3)  # Open3D's stub asks for its own SizeVector
    grid = o3d.t.geometry.VoxelBlockGrid(("tsdf", "weight", "color"), (float32,) * 3, channels, voxel_size)
    used = 0
    for camera, rgb, depth, alpha in views:
        inside = trim_depth(camera, depth, alpha, low, high, depth_trunc, min_alpha, margin=2 * voxel_size)
        used += int((inside > 0).sum())
        if bool((inside > 0).any()):
            _integrate(grid, camera, rgb, inside)
    if not used:
        raise UserError(
            f"no rendered depth lies inside the bounds {low.tolist()} to {high.tolist()}; expected the box to hold the "
            "scene, in the run's own world (training cameras within +-1). Choose larger bounds, or a lower minimum "
            "alpha."
        )
    mesh = grid.extract_triangle_mesh(weight_threshold=0.5).to_legacy()
    mesh = mesh.crop(o3d.geometry.AxisAlignedBoundingBox(low.double().numpy(), high.double().numpy()))
    if clusters:
        keep_largest(mesh, clusters)
    if not len(mesh.triangles):
        raise UserError(
            f"{used:,} depth pixels gave no triangle at a voxel size of {voxel_size:.4g}. The views may disagree about "
            "the surface; choose larger voxels."
        )
    mesh.compute_vertex_normals()
    return mesh


def trim_depth(
    camera: Camera,
    depth: Tensor,
    alpha: Tensor,
    low: Tensor,
    high: Tensor,
    depth_trunc: float,
    min_alpha: float,
    margin: float = 0.0,
) -> Tensor:
    """[H, W, 1] depth on the CPU; 0 where uncovered, too far, not finite, or off the box by more than `margin`."""
    camera, depth, alpha = camera.to("cpu"), depth.detach().cpu(), alpha.detach().cpu()
    points = unproject(depth.nan_to_num(0.0, 0.0, 0.0), camera)
    inside = ((points >= low - margin) & (points <= high + margin)).all(dim=-1, keepdim=True)
    use = inside & depth.isfinite() & (depth > 0) & (depth <= depth_trunc) & (alpha >= min_alpha)
    return torch.where(use, depth, torch.zeros_like(depth))


def keep_largest(mesh: o3d.geometry.TriangleMesh, clusters: int) -> None:
    """Remove, in place, all but the `clusters` largest connected pieces (by triangles), and loose vertices."""
    labels, sizes, _ = mesh.cluster_connected_triangles()
    labels, sizes = np.asarray(labels), np.asarray(sizes)
    if len(sizes) > clusters:
        kept = np.argsort(-sizes, kind="stable")[:clusters]
        mesh.remove_triangles_by_mask((~np.isin(labels, kept)).tolist())
        log.info("kept %d of %d pieces of the mesh", clusters, len(sizes))
    mesh.remove_degenerate_triangles()
    mesh.remove_unreferenced_vertices()


def _integrate(grid: o3d.t.geometry.VoxelBlockGrid, camera: Camera, rgb: Tensor, depth: Tensor) -> None:
    """Add one view; depth 0 adds nothing.

    Voxel blocks rather than ScalableTSDFVolume: that one divides float depth by 1000 in Open3D 0.20, and its pixel
    centres are whole numbers, where ours and the blocks' are halves.
    """
    import open3d as o3d

    def tensor(values: Tensor) -> o3d.core.Tensor:
        return o3d.core.Tensor(values.detach().cpu().contiguous().numpy())  # type: ignore[arg-type]

    images = [o3d.t.geometry.Image(tensor(values.float())) for values in (depth, rgb.clamp(0, 1))]
    pose = tensor(camera.K.double()), tensor(camera.w2c.double())
    limits = {"depth_scale": 1.0, "depth_max": float(depth.max()) * 1.01, "trunc_voxel_multiplier": _TRUNCATION}
    blocks = grid.compute_unique_block_coordinates(images[0], *pose, **limits)
    grid.integrate(blocks, *images, *pose, **limits)  # type: ignore[arg-type]


def _checked_bounds(bounds: Tensor) -> tuple[Tensor, Tensor]:
    bounds = bounds.detach().cpu().float()
    if bounds.shape != (2, 3) or not bool(bounds.isfinite().all()) or not bool((bounds[1] > bounds[0]).all()):
        raise UserError(
            f"the bounds are {bounds.tolist()}; expected two corners [[x, y, z], [x, y, z]], the first below the "
            "second on every axis."
        )
    return bounds[0], bounds[1]


def _checked_voxel(side: float, voxel_size: float | None) -> float:
    if voxel_size is None:
        return side / 256
    if not side / MAX_VOXELS_PER_SIDE <= voxel_size <= side:
        raise UserError(
            f"the voxel size is {voxel_size:g} in a box of {side:g}; expected between {side / MAX_VOXELS_PER_SIDE:.4g} "
            f"(1/{MAX_VOXELS_PER_SIDE} of its longest side: memory) and {side:g}."
        )
    return voxel_size
