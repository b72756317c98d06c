"""Repaired frames brought to the scene's depth and to the renders' colours, on pixels where the render is reliable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.gaussians.losses import fit_scale_shift

RELIABLE = 0.8
"""Opacity from which a render is taken as a measure."""
MIN_PIXELS = 64
"""With fewer reliable pixels nothing is fitted."""


def align_disparity(disparity: Tensor, depth: Tensor, alpha: Tensor, weight: Tensor) -> tuple[Tensor, bool]:
    """Disparity in the scene's own units: a * disparity + b, fitted robustly to 1 / depth where alpha is high.

    Args:
        disparity: [H, W, 1] up to scale and shift; 0 = unknown.
        depth, alpha: [H, W, 1] the render.
        weight: [H, W, 1] >= 0, further doubts.

    Returns:
        [H, W, 1], 0 where unknown or behind infinity, and whether there was enough to fit; if not, `disparity` itself.
    """
    known = (disparity > 0) & disparity.isfinite()
    usable = known & (depth > 1e-6) & depth.isfinite() & (alpha >= RELIABLE) & (weight > 0)
    if int(usable.sum()) < MIN_PIXELS:
        return disparity, False
    scale, shift = fit_scale_shift(disparity[usable], 1.0 / depth[usable], (weight * alpha)[usable])
    aligned = scale * disparity + shift
    return torch.where(known & (aligned > 0), aligned, 0.0), bool(scale > 0)


def align_colour(rgb: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """`rgb` [H, W, 3] under the affine map that brings it closest to `target` [H, W, 3], clamped to [0, 1].

    Fitted on four times smaller images, so that edges a few pixels apart do not count as a loss of contrast. Where the
    fit has too little to go by, bends colours too much or gains too little, `rgb` is given back.

    Args:
        weight: [H, W, 1] >= 0, how reliable the target is.
    """
    if int((weight > 0).sum()) < MIN_PIXELS:
        return rgb
    total = _shrink(weight)
    usable = total[..., 0] > 1e-3
    source, wanted = (_shrink(image * weight)[usable] / total[usable] for image in (rgb, target))
    if len(source) < 16:
        return rgb
    matrix = fit_colour(source, wanted, total[usable][:, 0])
    return (rgb @ matrix[:, :3].T + matrix[:, 3]).clamp(0, 1)


def fit_colour(source: Tensor, target: Tensor, weight: Tensor, ridge: float = 0.01, iterations: int = 8) -> Tensor:
    """The affine colour map [3, 4] from `source` to `target` [M, 3], drawn towards the identity by `ridge`.

    Least squares, reweighted by Geman and McClure's (c^2 / (c^2 + r^2))^2 with c^2 from the median residual. The
    identity comes back where a channel mix leaves [0.5, 2] in gain or 0.25 in offset, or where the median residual does
    not fall by a tenth.

    Args:
        weight: [M] >= 0 with a positive sum.
    """
    identity = torch.eye(3, 4, dtype=source.dtype, device=source.device)
    ones = torch.cat([source, torch.ones_like(source[:, :1])], dim=1)
    matrix, before = identity, _median_residual(ones, target, identity)
    for _ in range(iterations):
        square = (ones @ matrix.T - target).square().sum(-1)
        cut = (4.0 * square.median()).clamp_min(1e-8)
        w = weight * (cut / (cut + square)).square()
        w = (w / w.sum().clamp_min(1e-12))[:, None]
        normal = (ones * w).T @ ones + ridge * torch.eye(4).to(source)
        matrix = torch.linalg.solve(normal, (ones * w).T @ target + ridge * identity.T).T
    gains = torch.linalg.svdvals(matrix[:, :3])
    tame = bool(((gains > 0.5) & (gains < 2.0)).all()) and float(matrix[:, 3].abs().max()) < 0.25
    return matrix if tame and _median_residual(ones, target, matrix) < 0.9 * before else identity


def _median_residual(ones: Tensor, target: Tensor, matrix: Tensor) -> float:
    return float((ones @ matrix.T - target).norm(dim=-1).median())


def _shrink(image: Tensor) -> Tensor:
    """[H, W, C] -> a quarter of both sides, by averages."""
    size = max(1, image.shape[0] // 4), max(1, image.shape[1] // 4)
    return F.adaptive_avg_pool2d(image.permute(2, 0, 1)[None], size)[0].permute(1, 2, 0)
