"""Captured photos with depth, and what they show of another view: warped through the photos' own surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = 8
"""Of `warp_sources`: see there."""
PHOTOS = 4
"""Photos per frame that the fusion network is trained, measured and planned with."""
LOOK_ALIKE = 0.35
"""Angle in radians (20 degrees) between two rays to a place over which closeness falls by a factor of e."""


@dataclass(frozen=True)
class SourceView:
    """A captured photo and the surface that it shows."""

    rgb: Tensor
    """[h, w, 3] in [0, 1]."""
    depth: Tensor
    """[h, w, 1] z-depth in world units; 0 = unknown."""
    confidence: Tensor
    """[h, w, 1] in [0, 1]: how sure the depth is; 0 where the pixel itself is unknown."""
    w2c: Tensor
    """[4, 4] world to camera, OpenCV axes."""
    K: Tensor
    """[3, 3] intrinsics in pixels of `rgb`."""

    def to(self, device: torch.device | str) -> SourceView:
        """The same on another device."""
        return SourceView(*(value.to(device) for value in vars(self).values()))


@dataclass(frozen=True)
class ClipCameras:
    """The views of a clip."""

    w2c: Tensor
    """[T, 4, 4] world to camera, OpenCV axes."""
    K: Tensor
    """[T, 3, 3] intrinsics in pixels of the frames."""


def warp_sources(cameras: ClipCameras, depth: Tensor, sources: Sequence[SourceView], count: int) -> Tensor:
    """What the `count` most similar photos show of each frame.

    A photo's surface is drawn into the frame with a depth buffer; then the photo's colours are looked up through it.

    Args:
        cameras: T views of H x W pixels.
        depth: [T, H, W, 1] rendered z-depth in world units, 0 = nothing.
        sources: V >= 0 photos.
        count: S, photos per frame.

    Returns:
        [T, S, 8, H, W], all 0 where a photo shows nothing: colour (3, in [0, 1]); 1.0 where it shows something; the
        logarithm of its depth over the rendered one, in [-1, 1] (0 where none is rendered); its confidence; its
        closeness, exp(-angle between both rays / 20 degrees); and its depth's inverse, in world units.
    """
    frames, height, width = depth.shape[:3]
    out = depth.new_zeros(frames, count, CHANNELS, height, width)
    for t in range(frames):
        w2c, K = cameras.w2c[t], cameras.K[t]
        for s, index in enumerate(nearest_sources(w2c, depth[t], sources)[:count]):
            out[t, s] = warp(w2c, K, depth[t], sources[index])
    return out


def nearest_sources(w2c: Tensor, depth: Tensor, sources: Sequence[SourceView]) -> list[int]:
    """Indices of all photos, those that look at a frame's scene from the most similar place and direction first."""
    if not sources:
        return []
    scene = depth[depth > 0]
    unit = scene.median() if len(scene) else depth.new_tensor(1.0)
    poses = torch.stack([source.w2c for source in sources])
    centres = -(poses[:, :3, :3].transpose(1, 2) @ poses[:, :3, 3:])[..., 0]
    own = -w2c[:3, :3].T @ w2c[:3, 3]
    unlike = (centres - own).norm(dim=-1) / unit + 1 - poses[:, 2, :3] @ w2c[2, :3]
    return unlike.argsort(stable=True).tolist()


def warp(w2c: Tensor, K: Tensor, depth: Tensor, source: SourceView) -> Tensor:
    """[8, H, W] what one photo shows of a frame with camera w2c [4, 4], K [3, 3] and rendered depth [H, W, 1]."""
    height, width = depth.shape[:2]
    surface = filled_cracks(splatted_depth(w2c, K, height, width, source))
    shown = surface > 0
    points = unprojected(surface[..., None], w2c, K)
    seen = points @ source.w2c[:3, :3].T + source.w2c[:3, 3]
    pixels = seen @ source.K.T
    pixels = pixels[..., :2] / pixels[..., 2:].clamp_min(1e-9)
    size = pixels.new_tensor([source.rgb.shape[1], source.rgb.shape[0]])
    grid = (pixels / size * 2 - 1)[None]
    shown = shown & (grid[0].abs() <= 1).all(-1)
    maps = torch.cat([source.rgb, source.confidence], -1).permute(2, 0, 1)[None]
    looked_up = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    rendered = depth[..., 0]
    both = shown & (rendered > 0)
    ratio = torch.where(both, (surface.clamp_min(1e-9) / rendered.clamp_min(1e-9)).log().clamp(-1, 1), 0.0)
    here, there = (-pose[:3, :3].T @ pose[:3, 3] for pose in (w2c, source.w2c))
    cosine = (F.normalize(points - here, dim=-1) * F.normalize(points - there, dim=-1)).sum(-1)
    closeness = torch.exp(-torch.arccos(cosine.clamp(-1, 1)) / LOOK_ALIKE)
    inverse = 1 / surface.clamp_min(1e-9)
    rest = torch.stack([torch.ones_like(ratio), ratio, looked_up[3], closeness, inverse])
    return torch.cat([looked_up[:3], rest]) * shown


def unprojected(depth: Tensor, w2c: Tensor, K: Tensor) -> Tensor:
    """World points [H, W, 3] of a z-depth map [H, W, 1]; pixel centres lie at half-integers."""
    v, u = torch.meshgrid(
        *(torch.arange(n, device=depth.device, dtype=depth.dtype) + 0.5 for n in depth.shape[:2]), indexing="ij"
    )
    local = torch.stack([u, v, torch.ones_like(u)], -1) @ torch.linalg.inv(K).T * depth
    return (local - w2c[:3, 3]) @ w2c[:3, :3]


def splatted_depth(w2c: Tensor, K: Tensor, height: int, width: int, source: SourceView) -> Tensor:
    """[H, W] z-depth of a photo's nearest surface in another view, 0 where it draws nothing: each of its pixels covers
    the four pixels around the place where it is seen."""
    points = unprojected(source.depth, source.w2c, source.K)
    seen = (points @ w2c[:3, :3].T + w2c[:3, 3]).flatten(0, 1)
    z = seen[:, 2]
    usable = (source.depth.flatten() > 0) & (source.confidence.flatten() > 0) & (z > 1e-6)
    place = (seen @ K.T)[:, :2] / z.clamp_min(1e-6)[:, None] - 0.5
    buffer = z.new_full((height * width + 1,), torch.inf)
    corner = place.nan_to_num(-9.0).clamp(-9, 2**20).floor().long()
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = corner[:, 0] + dx, corner[:, 1] + dy
            inside = usable & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            # what lies outside goes to a cell of its own: no selection, and so no wait for a GPU
            cell = torch.where(inside, y * width + x, height * width)
            buffer.scatter_reduce_(0, cell, torch.where(inside, z, torch.inf), "amin")
    depth = buffer[:-1].reshape(height, width)
    return torch.where(depth.isfinite(), depth, 0.0)


def filled_cracks(depth: Tensor, enough: int = 4) -> Tensor:
    """[H, W] depth with pixels that have none between at least `enough` neighbours that do: their mean disparity.
    Surfaces that are seen from nearer than in the photo tear otherwise."""
    disparity = torch.where(depth > 0, 1 / depth.clamp_min(1e-9), 0.0)[None, None]
    known = (disparity > 0).to(disparity)
    total, count = (F.avg_pool2d(x, 3, 1, 1, count_include_pad=True) * 9 for x in (disparity, known))
    crack = (known == 0) & (count >= enough - 0.5)
    return torch.where(crack, count / total.clamp_min(1e-9), depth[None, None])[0, 0]
