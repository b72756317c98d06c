"""Simple guesses at a better clip, between which `Chooser` chooses place by place: pure functions.

The denoiser takes long to learn even to average frames. So the averages are made for it, and a small network learns
where each of them is right (as in kernel-predicting denoisers: Bako et al. 2017); the denoiser draws what none shows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.evidence import (
    AGREEMENT,
    NEAR,
    SEEN,
    TRUST,
    as_photos_agree,
    as_photos_show,
    as_surroundings_suggest,
)
from diffusion.preprocess import gaussian_blur

NAMES = (
    "clip",
    "blurred",
    "blurred more",
    "mean of 3 frames",
    "mean of 7 frames",
    "mean of 7 frames, blurred",
    "as photos show",
    "as surroundings suggest",
    "as surroundings suggest, blurred",
    "as surroundings suggest, blurred more",
    "as photos agree",
    "as photos agree, blurred",
)
"""What `candidates` returns, in order."""


FEATURES = 5 * (len(NAMES) - 1) + 3 + 8
"""Channels that `features` returns."""


def candidates(frames: Tensor, evidence: Tensor) -> Tensor:
    """Frames [B, C, T, H, W] in [-1, 1] and evidence [B, 10, T, H, W] (see `evidence`) -> guesses [B, K, C, T, H, W];
    the first is the clip itself.

    Blurs have a standard deviation of 1 and 2.5 pixels, those of the surroundings 2.5 and 7, that of photos that agree
    1; means are over up to 3 and 7 neighbouring frames.
    """
    soft, softer = _blurred(frames, 1.0), _blurred(frames, 2.5)
    means = _mean(frames, 3), _mean(frames, 7), _mean(softer, 7)
    around = as_surroundings_suggest(frames, evidence)
    agreed = as_photos_agree(frames, evidence)
    around = around, _blurred(around, 2.5), _blurred(around, 7.0)
    informed = as_photos_show(frames, evidence), *around, agreed, _blurred(agreed, 1.0)
    return torch.stack([frames, soft, softer, *means, *informed], dim=1)


def mixed(guesses: Tensor, logits: Tensor) -> Tensor:
    """The guesses' mean, weighted by the softmax of `logits`.

    Args:
        guesses: [B, K, C, T, H, W].
        logits: [B, K, T, h, w] at the latents' resolution; they are interpolated.

    Returns:
        [B, C, T, H, W].
    """
    batch, count, length = logits.shape[:3]
    flat = logits.transpose(1, 2).flatten(0, 1)
    fine = F.interpolate(flat, size=guesses.shape[-2:], mode="bilinear", align_corners=False)
    weights = fine.softmax(dim=1).unflatten(0, (batch, length)).transpose(1, 2)
    return (guesses * weights[:, :, None]).sum(dim=1)


def features(guesses: Tensor, opacity: Tensor, evidence: Tensor, patch: int) -> Tensor:
    """How far the guesses lie from the clip, as logarithms of about unit scale, and what photos show.

    Args:
        guesses: [B, K, C, T, H, W] of `candidates`; the first is the clip.
        opacity: [B, 1, T, H, W] in [0, 1].
        evidence: [B, 10, T, H, W] in [0, 1].
        patch: side of a place in pixels.

    Returns:
        [B, FEATURES, T, H / patch, W / patch]: the mean absolute difference in colour of every other guess at the
        place, in its surroundings (9 places wide), in its clip and in its frame, and in disparity at the place (0 if
        there is none); how transparent place, surroundings and clip are; and, in [-1, 1], trust, seen, near and
        agreement of place and surroundings.
    """
    off = (guesses[:, 1:] - guesses[:, :1]).abs()
    colour, depth = off[:, :, :3].mean(2), off[:, :, 3:].sum(2)
    here, depth_here = _places(colour, patch), _places(depth, patch)
    clear = 1 - _places(opacity, patch)
    frame = here.mean((3, 4), keepdim=True).expand_as(here)
    clip = here.mean((2, 3, 4), keepdim=True).expand_as(here)
    whole = clear.mean((2, 3, 4), keepdim=True).expand_as(clear)
    maps = [here, _surroundings(here), clip, frame, depth_here, clear, _surroundings(clear), whole]
    shown = _places(evidence[:, (TRUST, SEEN, NEAR, AGREEMENT)], patch)
    amplitudes = [0.5 * (values + 1e-3).log() + 1.5 for values in maps]
    return torch.cat([*amplitudes, 2 * shown - 1, 2 * _surroundings(shown) - 1], dim=1)


def _places(values: Tensor, patch: int) -> Tensor:
    return F.avg_pool3d(values, (1, patch, patch))


def _surroundings(values: Tensor) -> Tensor:
    means = F.avg_pool2d(values.flatten(1, 2), 9, stride=1, padding=4, count_include_pad=False)
    return means.unflatten(1, values.shape[1:3])


def _blurred(frames: Tensor, sigma: float) -> Tensor:
    flat = frames.transpose(1, 2).flatten(0, 1)
    return gaussian_blur(flat, sigma).unflatten(0, (len(frames), -1)).transpose(1, 2)


def _mean(frames: Tensor, length: int) -> Tensor:
    # the pooling of volumes refuses clips shorter than its window; the one of images does not
    images = frames.flatten(3)
    means = F.avg_pool2d(images, (length, 1), stride=1, padding=(length // 2, 0), count_include_pad=False)
    return means.unflatten(3, frames.shape[3:])
