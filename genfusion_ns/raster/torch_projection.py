"""From 2D Gaussians in the world to discs on the screen and lists of discs per tile: the readable torch version."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.raster.constants import RADIUS_MAX, RADIUS_SIGMAS, RADIUS_SQUARED_MIN, TILE

# Real spherical harmonics, Condon-Shortley phase included: sqrt(1/4pi), sqrt(3/4pi), sqrt(15/4pi) and so on.
_SH0 = 0.28209479177387814
_SH1 = 0.4886025119029199
_SH2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
_SH3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)


@dataclass
class Discs:
    """V splats as seen from one camera."""

    index: Tensor
    """[V] int64: which of the N Gaussians these are."""
    centre: Tensor
    """[V, 2] centre of the one-sigma bounding box in pixels; the low-pass is around this point."""
    depth: Tensor
    """[V] camera z of the centre."""
    pixel_from_disc: Tensor
    """[V, 3, 3] homography from disc coordinates (u, v, 1), in sigmas, to homogeneous pixels."""
    normal: Tensor
    """[V, 3] unit normal in world axes, facing the camera."""
    radius: Tensor
    """[V] screen radius in pixels, whole numbers."""


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotations [..., 3, 3] of quaternions [..., 4] (wxyz, any non-zero norm)."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def _homographies(means: Tensor, quats: Tensor, scales: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """`pixel_from_disc` [V, 3, 3] and camera-facing world normals [V, 3] (2DGS, equations 5 to 8)."""
    rotation, translation = camera.w2c[:3, :3], camera.w2c[:3, 3]
    axes = rotation_matrices(quats)
    local = means @ rotation.T + translation
    tangents = rotation @ (axes[:, :, :2] * scales[:, None, :2])
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    x, y, z = torch.cat([tangents, local[:, :, None]], -1).unbind(1)
    normal = axes[:, :, 2]
    facing = (normal * (means - camera.position)).sum(-1, keepdim=True) < 0
    return torch.stack([fx * x + cx * z, fy * y + cy * z, z], 1), torch.where(facing, normal, -normal)


def bounding_boxes(pixel_from_disc: Tensor) -> tuple[Tensor, Tensor]:
    """Centre [V, 2] and squared half sides [V, 2] of the one-sigma ellipse's bounding box.

    A line l touches the image of the unit circle diag(1, 1, -1) under M when l^T (M diag(1, 1, -1) M^T) l = 0; for
    x = const and y = const that is a quadratic, whose roots' mean is the centre.
    """
    x, y, w = pixel_from_disc.unbind(1)
    sign = x.new_tensor([1.0, 1.0, -1.0])
    norm = (sign * w * w).sum(-1, keepdim=True)
    centre = torch.stack([(sign * x * w).sum(-1), (sign * y * w).sum(-1)], -1) / norm
    squares = torch.stack([(sign * x * x).sum(-1), (sign * y * y).sum(-1)], -1) / norm
    return centre, centre * centre - squares


@torch.no_grad()
def _radii(
    means: Tensor, quats: Tensor, scales: Tensor, usable: Tensor, camera: Camera, near: float, far: float
) -> Tensor:
    """[N] screen radius in pixels; 0 for what is out of sight, and for everything that is not a number."""
    pixel_from_disc, _ = _homographies(means, quats, scales, camera)
    centre, extent = bounding_boxes(pixel_from_disc)
    radius = torch.ceil(RADIUS_SIGMAS * extent.amax(-1).clamp_min(RADIUS_SQUARED_MIN).sqrt())
    depth = pixel_from_disc[:, 2, 2]
    finite = torch.stack([t.isfinite().all(-1) for t in (pixel_from_disc.flatten(1), centre, extent, quats)]).all(0)
    seen = (
        finite
        & usable
        & (depth > near)
        & (depth < far)
        & (centre[:, 0] + radius > 0)
        & (centre[:, 0] - radius < camera.width)
        & (centre[:, 1] + radius > 0)
        & (centre[:, 1] - radius < camera.height)
    )
    return torch.where(seen, radius.clamp_max(RADIUS_MAX), torch.zeros_like(radius))


def project(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    usable: Tensor,  # [N] bool; False keeps a Gaussian out
    camera: Camera,
    near: float,
    far: float,
) -> Discs:
    """The discs that reach the image, differentiable. What is out of sight takes part in no differentiable operation,
    so that its gradient is exactly zero, whatever it holds."""
    radius = _radii(means, quats, scales, usable, camera, near, far)
    index = radius.nonzero()[:, 0]
    pixel_from_disc, normal = _homographies(means[index], quats[index], scales[index], camera)
    centre, _ = bounding_boxes(pixel_from_disc)
    return Discs(index, centre, pixel_from_disc[:, 2, 2], pixel_from_disc, normal, radius[index])


def spherical_harmonics(degree: int, directions: Tensor) -> Tensor:
    """Real basis functions [..., (degree + 1)^2] of unit directions [..., 3], degree 0 to 3, in the order of gsplat
    and of 3D Gaussian Splatting (m from -l to l)."""
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, _SH0)]
    if degree >= 1:
        basis += [-_SH1 * y, _SH1 * z, -_SH1 * x]
    if degree >= 2:
        a, b, c = _SH2
        basis += [a * x * y, -a * y * z, b * (3 * z * z - 1), -a * x * z, c * (x * x - y * y)]
    if degree >= 3:
        a, b, c, d, e = _SH3
        basis += [
            -a * y * (3 * x * x - y * y),
            b * x * y * z,
            -c * y * (5 * z * z - 1),
            d * z * (5 * z * z - 3),
            -c * x * (5 * z * z - 1),
            e * z * (x * x - y * y),
            -a * x * (x * x - 3 * y * y),
        ]
    return torch.stack(basis, -1)


def shade(means: Tensor, sh: Tensor, degree: int, eye: Tensor) -> Tensor:
    """Colours [V, 3] = max(SH + 0.5, 0) of splats at `means` [V, 3] with coefficients [V, K, 3], seen from `eye`."""
    towards = means - eye
    basis = spherical_harmonics(degree, towards / towards.norm(dim=-1, keepdim=True))
    return (torch.einsum("vk,vkc->vc", basis, sh[:, : basis.shape[-1]]) + 0.5).clamp_min(0)


@torch.no_grad()
def bin_into_tiles(discs: Discs, width: int, height: int) -> tuple[Tensor, list[int]]:
    """Disc numbers [M], tile after tile (row-major), front to back within one, and where each tile's run begins
    (tiles + 1 offsets). Discs at equal depth keep their order."""
    across, down = -(-width // TILE), -(-height // TILE)
    limit = torch.tensor([across, down], device=discs.depth.device)
    centre, radius = discs.centre / TILE, discs.radius[:, None] / TILE
    first = (centre - radius).floor().clamp_min(0).minimum(limit).long()
    extent = (centre + radius).ceil().clamp_min(0).minimum(limit).long() - first
    count = extent[:, 0] * extent[:, 1]
    disc = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    nth = torch.arange(len(disc), device=disc.device) - (count.cumsum(0) - count)[disc]
    row, column = nth // extent[disc, 0], nth % extent[disc, 0]
    tile = (first[disc, 1] + row) * across + first[disc, 0] + column
    order = discs.depth[disc].sort(stable=True).indices
    order = order[tile[order].sort(stable=True).indices]
    sizes = torch.bincount(tile, minlength=across * down)
    return disc[order], [0, *sizes.cumsum(0).tolist()]
