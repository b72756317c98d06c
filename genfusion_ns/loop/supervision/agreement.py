"""How far repaired frames agree with the photos: the one factor on their weight that is not the repairer's own."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

CONTRADICTS = 0.05
"""A frame contradicts the photos where it differs from them by this much more than its render does, in smoothed
colours."""
DOUBTED = 0.25
"""Contradicted share of what photos show that leaves a frame 1 / e of its weight."""
REFUSED = 0.4
"""Contradicted share from which a clip is not taken at all. Measured with 3 photos of the procedural scene: the truth
with noise contradicted up to 0.26 of what little they showed (wrong depths warp them wrongly), inverted pictures of
another scene 0.56 and more; of llff_fern up to 0.02, and 0.97 and more."""
MIN_SUPPORT = 0.02
"""What photos must surely show of a frame, or of a clip, to judge it; in frames."""


def sure_photos(warped: Tensor) -> tuple[Tensor, Tensor]:
    """What photos show of a frame: colour [H, W, 3], and how surely it belongs there [H, W, 1] in [0, 1].

    Args:
        warped: [S, 8, H, W] of `diffusion.inputs.source_views.warp_sources`.
    """
    trust = warped[:, 3:4] * warped[:, 5:6] * warped[:, 6:7]
    weight = trust.square() + 1e-6 * warped[:, 3:4]
    colour = (weight * warped[:, :3]).sum(0) / weight.sum(0).clamp_min(1e-9)
    sure = trust.amax(0) if len(warped) else warped.new_zeros(1, *warped.shape[2:])
    return colour.permute(1, 2, 0), sure.permute(1, 2, 0)


def contradiction(rgb: Tensor, rendered: Tensor, warped: Tensor) -> tuple[float, float]:
    """How much of what photos surely show of a view a repaired frame [H, W, 3] contradicts, and how much they show at
    all; both in frames. What its render gets wrong too (the geometry may be wrong, not the frame) does not count."""
    photo, sure = sure_photos(warped)
    weight = sure.square()
    # averages of what is trusted only, so that a strip that is seen says as much as a whole frame
    total = _windows(weight, 16).clamp_min(1e-4)
    repaired_off, rendered_off = (
        (_windows((image - photo) * weight, 16) / total).abs().mean(-1, keepdim=True) for image in (rgb, rendered)
    )
    contradicted = weight * (repaired_off - rendered_off > CONTRADICTS)
    return float(contradicted.mean()), float(weight.mean())


def _windows(values: Tensor, parts: int) -> Tensor:
    """[H, W, C] -> the same, each pixel the mean of a window of 1 / `parts` of the shorter side."""
    size = max(1, min(values.shape[:2]) // parts) | 1
    batch = values.permute(2, 0, 1)[None]
    smooth = F.avg_pool2d(batch, size, stride=1, padding=size // 2, count_include_pad=False)
    return smooth[0].permute(1, 2, 0)


def clip_contradiction(frames: list[tuple[float, float]]) -> float | None:
    """Contradicted share of all that photos surely show of a clip, from its frames' `contradiction`s; None where that
    is next to nothing."""
    contradicted, shown = (sum(values) for values in zip(*frames, strict=True))
    return contradicted / shown if shown >= MIN_SUPPORT else None


def clip_agreements(frames: list[tuple[float, float]], unknown: float = 0.5) -> list[float]:
    """One value in [0, 1] per frame of a clip, from their `contradiction`s; 1 = contradicts no photo.

    Repairers fail by the clip, so each frame gets the geometric mean of its own agreement and its clip's, where no
    photo can judge it only that; `unknown` where no photo can judge the clip.
    """
    whole = clip_contradiction(frames)
    clip = unknown if whole is None else agreement(whole)
    return [(agreement(bad / shown) * clip) ** 0.5 if shown >= MIN_SUPPORT else clip for bad, shown in frames]


def agreement(contradicted: float) -> float:
    """In (0, 1], from the contradicted share in [0, 1]."""
    return math.exp(-((contradicted / DOUBTED) ** 2))
