"""Captured pixels win wherever a captured view covers them."""

from __future__ import annotations

import torch
from torch import Tensor

from genfusion_ns.loop.reproject import Reprojection

SURE = 0.5
"""Trust from which a photo's pixel replaces the frame's; below, down to 0, the two are blended."""


def paste(rgb: Tensor, confidence: Tensor, photos: Reprojection) -> tuple[Tensor, Tensor]:
    """A repaired frame [H, W, 3] with the photos' pixels in it, and its confidence [H, W, 1] with theirs."""
    share = (photos.trust / SURE).clamp(0, 1)
    # smoothstep: no visible seam where trust begins and ends
    share = share * share * (3.0 - 2.0 * share)
    return torch.lerp(rgb, photos.rgb, share), torch.maximum(confidence, photos.trust)
