"""Plane sweep: where the pixels of a reference view lie in a source view, for a set of inverse depths.

All inverse depths are along the reference camera's optical axis; 0 is the plane at infinity. Pixel centres lie at
half-integers, so the projection of a photo shrunk by a factor is the photo's own with both K scaled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def relative_projection(K_ref: Tensor, w2c_ref: Tensor, K_src: Tensor, w2c_src: Tensor) -> Tensor:
    """[..., 3, 4] maps (u, v, 1, inverse depth) of the reference view to homogeneous pixels of the source view.

    Args:
        K_ref, K_src: [..., 3, 3] intrinsics in pixels.
        w2c_ref, w2c_src: [..., 4, 4] world-to-camera transforms.
    """
    relative = w2c_src @ torch.linalg.inv(w2c_ref)
    turned = K_src @ relative[..., :3, :3] @ torch.linalg.inv(K_ref)
    return torch.cat([turned, K_src @ relative[..., :3, 3:]], -1)


def scaled_projection(projection: Tensor, factor: float) -> Tensor:
    """The projection [..., 3, 4] between both images shrunk by `factor` (0.25 = a quarter of the side)."""
    grow = projection.new_tensor([1 / factor, 1 / factor, 1.0, 1.0])
    shrink = projection.new_tensor([factor, factor, 1.0])
    return shrink[:, None] * projection * grow


def swept_pixels(projection: Tensor, inverse_depth: Tensor) -> tuple[Tensor, Tensor]:
    """Source pixels [B, D, H, W, 2] and depth in the source view over that in the reference view [B, D, H, W].

    Args:
        projection: [B, 3, 4] of `relative_projection`, at the resolution of `inverse_depth`.
        inverse_depth: [B, D, H, W], >= 0.
    """
    height, width = inverse_depth.shape[-2:]
    v = torch.arange(height, device=projection.device, dtype=projection.dtype) + 0.5
    u = torch.arange(width, device=projection.device, dtype=projection.dtype) + 0.5
    matrix = projection[:, :, :, None, None]
    at_infinity = matrix[:, :, 0] * u + matrix[:, :, 1] * v[:, None] + matrix[:, :, 2]  # [B, 3, H, W]
    homogeneous = at_infinity[:, None] + matrix[:, None, :, 3] * inverse_depth[:, :, None]  # [B, D, 3, H, W]
    ratio = homogeneous[:, :, 2]
    pixels = homogeneous[:, :, :2] / ratio[:, :, None].clamp_min(1e-4)
    return pixels.permute(0, 1, 3, 4, 2), ratio


def sample_planes(features: Tensor, pixels: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Source features at the swept pixels, and where these lie in the image and in front of it.

    Args:
        features: [B, C, H', W'] of the source view, at its own resolution.
        pixels: [B, D, H, W, 2] and
        ratio: [B, D, H, W] of `swept_pixels`.

    Returns:
        [B, C, D, H * W] bilinear samples (0 outside) and [B, D, H * W], 1.0 inside and 0.0 outside.
    """
    height, width = features.shape[-2:]
    grid = 2 * pixels / pixels.new_tensor([width, height]) - 1
    inside = ((ratio > 1e-4) & (grid.abs() <= 1).all(-1)).to(features.dtype).flatten(2)
    sampled = F.grid_sample(features, grid.flatten(2, 3), align_corners=False, padding_mode="zeros")
    return sampled, inside
