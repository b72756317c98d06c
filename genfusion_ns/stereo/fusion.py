"""What the depths of several photos say of each other: agreement, and views that look through a surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import project, unproject
from genfusion_ns.stereo.posed_photos import PhotoDepth, PosedPhoto

AGREE = 0.05
"""Relative difference of two depths of one surface."""


class Support(NamedTuple):
    """What the other photos say of each pixel of one photo, weighted by their own confidence."""

    agree: Tensor
    """[H, W, 1] sum of the confidences of the photos whose depth agrees."""
    contradict: Tensor
    """[H, W, 1] sum of the confidences of the photos that see a surface behind it, through it."""


def support(
    i: int,
    photos: Sequence[PosedPhoto],
    depths: Sequence[PhotoDepth],
    others: Sequence[int],
    agree_within: float = AGREE,
) -> Support:
    """How the photos `others` support the depth of photo `i`.

    A photo that sees something nearer in front of the place says nothing: the place may be hidden there.
    """
    points = unproject(depths[i].depth, photos[i].camera)
    agree = contradict = torch.zeros_like(depths[i].depth)
    for j in others:
        camera = photos[j].camera
        pixels, z = project(points, camera)
        size = pixels.new_tensor([camera.width, camera.height])
        grid = (2 * pixels / size - 1).nan_to_num(2.0).clamp(-2, 2)
        inside = ((grid.abs() <= 1).all(-1) & (z > 0))[..., None]
        shown = sampled(depths[j].depth, grid)
        sure = sampled(depths[j].confidence, grid) * inside
        ratio = z[..., None] / shown.clamp_min(1e-12)
        agree = agree + sure * ((ratio - 1).abs() < agree_within)
        contradict = contradict + sure * (ratio < 1 - 2 * agree_within)
    return Support(agree, contradict)


def sampled(values: Tensor, grid: Tensor) -> Tensor:
    """[H, W, 1] nearest values of a map [h, w, 1] at a grid [H, W, 2] in [-1, 1]."""
    nchw = values.permute(2, 0, 1)[None]
    return F.grid_sample(nchw, grid[None], mode="nearest", align_corners=False)[0].permute(1, 2, 0)


FUSION_WEIGHTS = (-0.43, 0.63, 1.33, -0.93)
"""Bias and weights of the log odds, agreement and contradiction in `fused_confidence`, as `train.calibrate.fit_fusion`
found them on eight scenes of other seeds."""


def fused_confidence(confidence: Tensor, found: Support) -> Tensor:
    """The probability [H, W, 1] that a depth is right, from its own confidence and what other photos say: a logistic
    regression on (log odds, agreement, contradiction)."""
    odds = torch.logit(confidence.clamp(1e-4, 1 - 1e-4))
    bias, own, agree, contradict = FUSION_WEIGHTS
    return torch.sigmoid(
        bias + own * odds + agree * found.agree.clamp_max(3) + contradict * found.contradict.clamp_max(3)
    )
