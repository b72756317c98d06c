"""How far a repaired frame can be believed, pixel by pixel and as a whole."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.loop.reproject import Reprojection

RENDER_TOLERANCE = 0.15
"""Difference of smoothed colours at which a frame's contradiction to a well-supported render begins to count."""
CLIP_TOLERANCE = 0.1
"""The same for two clips that show one view."""
CHANGED = 0.02
"""Difference of colour, in a pixel's surroundings, at which a repair begins to tell something new."""
NEWS = 0.05
"""Mean `novelty` below which a frame is its render over again."""
CONTRADICTS = 0.05
"""A frame contradicts the photos where it differs from them by this much more than its render does, in smoothed
colours."""
DOUBTED = 0.25
"""Contradicted share of what photos show that leaves a frame 1 / e of its weight."""
REFUSED = 0.4
"""Contradicted share from which a clip is not taken at all. Measured with 3 photos of the procedural scene: the truth
with noise contradicted up to 0.26 of what little they showed (wrong depths warp them wrongly), inverted pictures of
another scene 0.56 and more; of llff_fern up to 0.02, and 0.97 and more."""
LEAST = 0.2
"""Confidence that a contradiction to the render leaves: the render may be what is wrong."""
MIN_SUPPORT = 0.02
"""What photos must surely show of a frame, or of a clip, to judge it; in frames."""


def difference(a: Tensor, b: Tensor) -> Tensor:
    """[H, W, 1] mean absolute difference of two images, both averaged over windows of an eighth of their shorter side
    (so that it tells another content from the same content a few pixels off)."""
    return _windows(a - b, 8).abs().mean(-1, keepdim=True)


def _windows(values: Tensor, parts: int) -> Tensor:
    """[H, W, C] -> the same, each pixel the mean of a window of 1 / `parts` of the shorter side."""
    size = max(1, min(values.shape[:2]) // parts) | 1
    batch = values.permute(2, 0, 1)[None]
    smooth = F.avg_pool2d(batch, size, stride=1, padding=size // 2, count_include_pad=False)
    return smooth[0].permute(1, 2, 0)


def render_confidence(rgb: Tensor, rendered: Tensor, support: Tensor) -> Tensor:
    """[H, W, 1] in [LEAST, 1]: falls where a frame contradicts a render that has support.

    Args:
        rgb, rendered: [H, W, 3].
        support: [H, W, 1] in [0, 1], opacity of what photos show too.
    """
    agreement = torch.exp(-(difference(rgb, rendered) / RENDER_TOLERANCE).square())
    return 1.0 - (1.0 - LEAST) * support * (1.0 - agreement)


def novelty(rgb: Tensor, rendered: Tensor) -> Tensor:
    """[H, W, 1] in [0, 1): 0 where a repair [H, W, 3] left the render and its surroundings as they were."""
    square = _windows((rgb - rendered).square().mean(-1, keepdim=True), 16)
    return 1.0 - torch.exp(-square / CHANGED**2)


def contradiction(rgb: Tensor, rendered: Tensor, photos: Reprojection) -> tuple[float, float]:
    """How much of what photos surely show of a view a repaired frame [H, W, 3] contradicts, and how much they show at
    all; both in frames. What its render gets wrong too (the geometry may be wrong, not the frame) does not count."""
    weight = photos.trust.square()
    # averages of what is trusted only, so that a strip that is seen says as much as a whole frame
    total = _windows(weight, 16).clamp_min(1e-4)
    repaired_off, rendered_off = (
        (_windows((image - photos.rgb) * weight, 16) / total).abs().mean(-1, keepdim=True) for image in (rgb, rendered)
    )
    contradicted = weight * (repaired_off - rendered_off > CONTRADICTS)
    return float(contradicted.mean()), float(weight.mean())


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


def clip_confidence(a: Tensor, b: Tensor) -> Tensor:
    """[H, W, 1] in (0, 1]: falls where two clips show one view [H, W, 3] differently."""
    return torch.exp(-(difference(a, b) / CLIP_TOLERANCE).square())
