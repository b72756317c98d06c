"""How far a repaired frame can be believed, pixel by pixel and as a whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.loop.reproject import Reprojection

RENDER_TOLERANCE = 0.15
"""Difference of smoothed colours at which a frame's contradiction to a well-supported render begins to count."""
CLIP_TOLERANCE = 0.1
"""The same for two clips that show one view."""
PHOTO_TOLERANCE = 0.1
"""By how much more than its render a frame may differ from the photos, in smoothed colours, before its weight falls."""
LEAST = 0.2
"""Confidence that a contradiction to the render leaves: the render may be what is wrong."""
MIN_SUPPORT = 0.02
"""Share of a frame that photos must reach to judge it."""


def difference(a: Tensor, b: Tensor) -> Tensor:
    """[H, W, 1] mean absolute difference of two images, both averaged over windows of an eighth of their shorter side
    (so that it tells another content from the same content a few pixels off)."""
    size = max(1, min(a.shape[:2]) // 8) | 1
    batch = (a - b).permute(2, 0, 1)[None]
    smooth = F.avg_pool2d(batch, size, stride=1, padding=size // 2, count_include_pad=False)
    return smooth[0].permute(1, 2, 0).abs().mean(-1, keepdim=True)


def render_confidence(rgb: Tensor, rendered: Tensor, support: Tensor) -> Tensor:
    """[H, W, 1] in [LEAST, 1]: falls where a frame contradicts a render that has support.

    Args:
        rgb, rendered: [H, W, 3].
        support: [H, W, 1] in [0, 1], opacity of what photos show too.
    """
    agreement = torch.exp(-(difference(rgb, rendered) / RENDER_TOLERANCE).square())
    return 1.0 - (1.0 - LEAST) * support * (1.0 - agreement)


def photo_agreement(rgb: Tensor, rendered: Tensor, photos: Reprojection) -> float | None:
    """In [0, 1]: 1 = a repaired frame differs from the photos hardly more than its render does; None = no photo
    reaches far enough to tell."""
    support = float(photos.seen.mean())
    if support < MIN_SUPPORT:
        return None
    # outside of what photos show both images are made equal, so that windows across the border stay comparable
    shown = photos.seen > 0
    repaired_off, rendered_off = (
        float((difference(torch.where(shown, image, photos.rgb), photos.rgb) * photos.seen).sum())
        / float(photos.seen.sum())
        for image in (rgb, rendered)
    )
    excess = max(0.0, repaired_off - rendered_off)
    return float(torch.exp(torch.tensor(-((excess / PHOTO_TOLERANCE) ** 2))))


def clip_agreements(frames: list[float | None], unknown: float = 0.5) -> list[float]:
    """One value per frame of a clip: a frame shares its clip's fate, and where no photo can judge it, has only that.

    Repairers fail by the clip, so each frame gets the geometric mean of its own agreement and its clip's; `unknown`
    where no frame of the clip could be judged.
    """
    judged = [value for value in frames if value is not None]
    if not judged:
        return [unknown] * len(frames)
    clip = sum(judged) / len(judged)
    return [clip if value is None else (value * clip) ** 0.5 for value in frames]


def clip_confidence(a: Tensor, b: Tensor) -> Tensor:
    """[H, W, 1] in (0, 1]: falls where two clips show one view [H, W, 3] differently."""
    return torch.exp(-(difference(a, b) / CLIP_TOLERANCE).square())
