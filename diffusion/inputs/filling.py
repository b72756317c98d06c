"""Holes of renderings filled from their surroundings, before any network sees them: pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SURE = 1e-8
"""Weights are divided by at least this."""


def filled(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Renderings [N, 3, H, W] over black, with a smooth guess behind everything that is not opaque [N, 1, H, W]."""
    # over black a rendering is opacity * colour already, hence its own numerator; rounding may lift it above opacity
    return rgb + (1 - alpha) * pull_push(torch.minimum(rgb, alpha), alpha)


def pull_push(weighted: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of what surrounds each pixel, over windows that double until there is enough weight
    (Gortler et al. 1996, "The Lumigraph", section 3.5).

    Args:
        weighted: [N, C, H, W] values times their weights.
        weight: [N, 1, H, W] in [0, 1].

    Returns:
        [N, C, H, W]; 0 where an image has no weight at all.
    """
    height, width = weight.shape[-2:]
    mean = weighted / weight.clamp_min(SURE)
    if max(height, width) == 1:
        return mean
    coarse = pull_push(_halved(weighted), _halved(weight))
    coarse = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return weight * mean + (1 - weight) * coarse


def _halved(values: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; of fewer at the lower and right border, and in images one pixel high or wide."""
    kernel = [min(2, side) for side in values.shape[-2:]]
    return F.avg_pool2d(values, kernel, ceil_mode=True, count_include_pad=False)
