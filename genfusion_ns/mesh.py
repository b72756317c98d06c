"""A triangle mesh from rendered depth: fusion into a truncated signed distance field, through Open3D."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from genfusion_ns.cameras import Camera, unproject
from genfusion_ns.errors import UserError

if TYPE_CHECKING:
    import open3d as o3d

log = logging.getLogger(__name__)

MAX_VOXELS_PER_SIDE = 4096
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
    """Fuse depth maps into a coloured mesh (Curless and Levoy 1996, Open3D's scalable volume).

    Args:
        views: rendered one by one; only one needs to be in memory.
        bounds: [2, 3] lowest and highest corner of the box that is meshed; what lies outside is left out.
        voxel_size: world units; by default 1/256 of the box's longest side. The truncation distance is 4 voxels.
        depth_trunc: depths beyond this are left out, world units.
        min_alpha: pixels less covered than this are left out.
        clusters: how many connected pieces are kept, the largest first; 0 keeps all.

    Raises:
        UserError: bounds are not a box, the voxels are too small for it, or nothing lies inside.
    """
    import open3d as o3d

    low, high = _checked_bounds(bounds)
    voxel_size = _checked_voxel(float((high - low).max()), voxel_size)
    volume = o3d.pipelines.integration.ScalableTSDFVolume(
        voxel_length=voxel_size,
        sdf_trunc=4 * voxel_size,
        color_type=o3d.pipelines.integration.TSDFVolumeColorType.RGB8,
    )
    used = 0
    for camera, rgb, depth, alpha in views:
        inside = trim_depth(camera, depth, alpha, low, high, depth_trunc, min_alpha, margin=2 * voxel_size)
        used += int((inside > 0).sum())
        volume.integrate(_rgbd(rgb, inside), _intrinsic(camera), camera.w2c.double().cpu().numpy())
    if not used:
        raise UserError(
            f"no rendered depth lies inside the bounds {low.tolist()} to {high.tolist()}; expected the box to hold the "
            "scene, in the run's own world (training cameras within +-1). Choose larger bounds, or a lower minimum "
            "alpha."
        )
    mesh = volume.extract_triangle_mesh()
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


def _rgbd(rgb: Tensor, depth: Tensor) -> o3d.geometry.RGBDImage:
    import open3d as o3d

    color = (rgb.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).contiguous().numpy()
    return o3d.geometry.RGBDImage.create_from_color_and_depth(
        o3d.geometry.Image(color),  # type: ignore[arg-type]
        o3d.geometry.Image(depth[..., 0].float().contiguous().numpy()),  # type: ignore[arg-type]
        depth_scale=1.0,
        depth_trunc=float(np.finfo(np.float32).max),
        convert_rgb_to_intensity=False,
    )


def _intrinsic(camera: Camera) -> o3d.camera.PinholeCameraIntrinsic:
    import open3d as o3d

    K = camera.K.double().cpu()
    # Open3D's pixel centres are whole numbers, ours are halves
    center = float(K[0, 2]) - 0.5, float(K[1, 2]) - 0.5
    return o3d.camera.PinholeCameraIntrinsic(camera.width, camera.height, float(K[0, 0]), float(K[1, 1]), *center)


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
