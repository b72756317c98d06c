"""A repairer without learning: fills holes from their surroundings and smooths, keeping edges.

It is the control that a learned model has to beat, and what is left where there are no weights.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genfusion_ns.loop.repairers.base import RepairedClip, RGBDClip

Array = NDArray[Any]
"""Of float32."""


class ClassicalRepairer:
    """Opacity-weighted hole filling, then a bilateral filter on colours and a median filter on disparities."""

    name = "classical"
    fingerprint = ""

    def repair(self, clip: RGBDClip, reference: Tensor) -> RepairedClip:
        """See `Repairer.repair`; the reference is not looked at."""
        del reference
        rgb, disparity, confidence = repair_clip(clip.rgb, clip.depth, clip.alpha)
        return RepairedClip(rgb.to(clip.rgb), disparity.to(clip.rgb), confidence.to(clip.rgb))


def repair_clip(rgb: Tensor, depth: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`repair_frame` for every frame of [T, H, W, 3], [T, H, W, 1] and [T, H, W, 1]; float32, on the CPU."""
    frames = [
        repair_frame(*(values[i].cpu().float().numpy() for values in (rgb, depth, alpha))) for i in range(len(rgb))
    ]
    repaired, disparity, confidence = (torch.from_numpy(np.stack(maps)) for maps in zip(*frames, strict=True))
    return repaired, disparity, confidence


def repair_frame(rgb: Array, depth: Array, alpha: Array) -> tuple[Array, Array, Array]:
    """One frame: rgb [H, W, 3] over black, depth and alpha [H, W, 1] -> rgb, disparity > 0 (0: all is empty) and
    confidence, all of those shapes.

    A pixel is believed by its opacity; what was filled by up to 0.3, less the further the nearest surface is.
    """
    alpha = np.clip(np.nan_to_num(alpha), 0.0, 1.0)
    rgb = np.clip(np.nan_to_num(rgb), 0.0, 1.0)
    # a render over black is alpha * colour already, hence its own numerator
    background = fill(rgb, alpha)
    filled = rgb + (1.0 - alpha) * background
    smooth = cv2.bilateralFilter(np.ascontiguousarray(filled), d=5, sigmaColor=0.1, sigmaSpace=1.5)
    seen = (depth > 1e-6) & np.isfinite(depth)
    weight = (alpha * seen).astype(np.float32)
    inverse = np.where(seen, 1.0 / np.where(seen, depth, 1.0), 0.0).astype(np.float32)
    disparity = np.where(seen, inverse, fill(inverse * weight, weight))
    disparity = cv2.medianBlur(np.ascontiguousarray(disparity[..., 0]), 3)[..., None]
    return np.clip(smooth, 0.0, 1.0), disparity.astype(np.float32), _confidence(alpha)


def fill(weighted: Array, weight: Array) -> Array:
    """The average of what surrounds each pixel: sums of values and of weights, over ever larger windows until there
    is enough weight (Burt 1988's pull-push pyramid, as in Gortler et al. 1996, section 3.5).

    Args:
        weighted: [H, W, C] values times their weights.
        weight: [H, W, 1] in [0, 1].

    Returns:
        [H, W, C]; 0 where no weight is anywhere.
    """
    height, width = weight.shape[:2]
    if max(height, width) == 1:
        return weighted / np.maximum(weight, 1e-8)
    coarse = fill(_shrink(weighted), _shrink(weight))
    coarse = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(weighted.shape)
    enough = np.minimum(weight, 1.0)
    return weighted / np.maximum(weight, 1e-8) * enough + (1.0 - enough) * coarse


def _shrink(values: Array) -> Array:
    """Half the size, rounded up; each pixel the mean of the four (or fewer) below it."""
    height, width, channels = values.shape
    padded = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return padded.reshape((height + 1) // 2, 2, (width + 1) // 2, 2, channels).mean((1, 3)).astype(np.float32)


def _confidence(alpha: Array) -> Array:
    empty = (alpha[..., 0] < 0.5).astype(np.uint8)
    if empty.all():
        return alpha.astype(np.float32)
    distance = cv2.distanceTransform(empty, cv2.DIST_L2, 3)[..., None]
    reach = 0.05 * math.hypot(*alpha.shape[:2])
    return (alpha + (1.0 - alpha) * 0.3 * np.exp(-distance / reach)).astype(np.float32)
