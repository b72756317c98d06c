"""Simple guesses at a better clip, between which the network chooses pixel by pixel: pure functions.

A network of a few million weights takes long to learn even to average frames, since what it passes on goes through
normalisations. So it is handed the averages, and learns where each of them is right (as in kernel-predicting denoisers:
Bako et al. 2017); what none of them shows it still draws itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.preprocess import gaussian_blur

NAMES = ("clip", "blurred", "blurred more", "mean of 3 frames", "mean of 7 frames", "mean of 7 frames, blurred")
"""What `candidates` returns, in order."""


def candidates(frames: Tensor) -> Tensor:
    """Frames [B, C, T, H, W] -> guesses [B, 6, C, T, H, W]; the first is the clip itself.

    Blurs have a standard deviation of 1 and 2.5 pixels; means are over up to 3 and 7 neighbouring frames.
    """
    soft, softer = _blurred(frames, 1.0), _blurred(frames, 2.5)
    return torch.stack([frames, soft, softer, _mean(frames, 3), _mean(frames, 7), _mean(softer, 7)], dim=1)


def mean_of_neighbours(frames: Tensor) -> Tensor:
    """The candidate whose change from the clip a one-step sampler starts from: it shows where frames contradict each
    other. [B, C, T, H, W] -> the same."""
    return _mean(frames, 7)


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


def _blurred(frames: Tensor, sigma: float) -> Tensor:
    flat = frames.transpose(1, 2).flatten(0, 1)
    return gaussian_blur(flat, sigma).unflatten(0, (len(frames), -1)).transpose(1, 2)


def _mean(frames: Tensor, length: int) -> Tensor:
    # the pooling of volumes refuses clips shorter than its window; the one of images does not
    images = frames.flatten(3)
    means = F.avg_pool2d(images, (length, 1), stride=1, padding=(length // 2, 0), count_include_pad=False)
    return means.unflatten(3, frames.shape[3:])
