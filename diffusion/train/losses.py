"""What training minimises: pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PIXEL_FLOOR = 0.02
"""Error of frames in [-1, 1] below which one counts as right."""


def learning_rate(step: int, total: int, peak: float, warmup: int, schedule: str, floor: float = 0.05) -> float:
    """Rises linearly to `peak` over `warmup` steps, then falls as half a cosine to `floor` * peak at the last step, or
    stays ("constant"). `step` counts from 0."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    if schedule == "constant":
        return peak * rise
    along = min(1.0, max(0.0, (step - warmup) / max(1, total - 1 - warmup)))
    return peak * rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * along)))


def ema_decay(step: int, decay: float) -> float:
    """Decay of the weights' average after update number `step` (from 0): small first, so that it forgets the start."""
    return min(decay, (1 + step) / (10 + step))


def reconstruction(output: Tensor, target: Tensor, known: Tensor, depth_weight: float) -> Tensor:
    """Mean absolute error [B] of each clip's colour, plus that of disparity times `depth_weight` where it is `known`.

    Args:
        output, target: [B, 4 (or 3), T, H, W] in [-1, 1].
        known: [B, 1, T, H, W] in {0, 1}.
    """
    colour = (output[:, :3] - target[:, :3]).abs().flatten(1).mean(1)
    if output.shape[1] == 3:
        return colour
    error = ((output[:, 3:] - target[:, 3:]).abs() * known).flatten(1).sum(1)
    return colour + depth_weight * error / known.flatten(1).sum(1).clamp_min(1)


def root_mean_square(output: Tensor, target: Tensor, known: Tensor, depth_weight: float) -> Tensor:
    """Root mean squared error [B, T] of each frame's colour, plus that of its disparity times `depth_weight`: what PSNR
    is made of, and least for the mean of all that could be there. Arguments as `reconstruction`'s."""
    colour = (output[:, :3] - target[:, :3]).square().mean((1, 3, 4))
    total = (colour + 1e-6).sqrt()
    if output.shape[1] == 3:
        return total
    square = ((output[:, 3:] - target[:, 3:]).square() * known).sum((1, 3, 4))
    return total + depth_weight * (square / known.sum((1, 3, 4)).clamp_min(1) + 1e-6).sqrt()


def relative_error(error: Tensor, before: Tensor, floor: float) -> Tensor:
    """Errors as shares of the errors before anything was done (of one shape); `floor` keeps what was nearly right from
    counting for more than it is worth. Its gradient is that of the gain in dB, up to a factor."""
    return error / (before.detach() + floor)


def relative_frame_error(output: Tensor, before: Tensor, target: Tensor, known: Tensor, depth_weight: float) -> Tensor:
    """Mean over all frames of their `root_mean_square` error as a share of that `before`."""
    errors = root_mean_square(output, target, known, depth_weight)
    return relative_error(errors, root_mean_square(before, target, known, depth_weight), PIXEL_FLOOR).mean()


def log_frame_error(
    output: Tensor, target: Tensor, known: Tensor, depth_weight: float, weight: Tensor | None = None
) -> Tensor:
    """Mean over all frames of the logarithm of their `root_mean_square` error: lower by 0.115 is 1 dB better, in hard
    and easy frames alike. `weight` [B, T] says how much each frame counts; None = all alike."""
    error = (root_mean_square(output, target, known, depth_weight) + PIXEL_FLOOR).log()
    return error.mean() if weight is None else (weight * error).sum() / weight.sum().clamp_min(1e-6)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Of N(mean, exp(logvar)) from N(0, 1), mean over all elements."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def draw_timesteps(count: int, total: int, last_share: float, generator: torch.Generator) -> Tensor:
    """[count] timesteps in [0, total): the last with probability `last_share`, else any, alike."""
    drawn = torch.randint(total, (count,), generator=generator)
    last = torch.rand(count, generator=generator) < last_share
    return torch.where(last, total - 1, drawn)


def clean_estimate(noisy: Tensor, velocity: Tensor, abar: Tensor) -> Tensor:
    """The clean latent that v says: sqrt(abar) x_t - sqrt(1 - abar) v (Salimans and Ho 2022); no dynamic rescale.

    `abar` is shaped to multiply the others.
    """
    return abar.sqrt() * noisy - (1 - abar).sqrt() * velocity
