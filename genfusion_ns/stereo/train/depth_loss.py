"""What the stereo network is trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.stereo.network import StereoOutput
from genfusion_ns.stereo.train.batches import StereoBatch, coarser

CLOSE = 0.05
"""Relative error within which a depth counts as right."""


def relative_error(inverse: Tensor, truth: Tensor, nearest: Tensor, planes: int) -> Tensor:
    """|inverse - truth| over the truth, but at least one plane's distance (far away, a pixel's disparity counts)."""
    least = (nearest / (planes - 1))[:, None, None, None]
    return (inverse - truth).abs() / torch.maximum(truth, least)


def stereo_loss(output: StereoOutput, batch: StereoBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and what it consists of.

    Cross-entropy of the planes, a robust relative error of fine and full inverse depth, its gradients (edges), and
    the confidence's and the scale's own likelihoods.
    """
    planes = output.logits.shape[1]
    truth4, known4 = coarser(batch.inverse_depth, batch.known, 4)
    truth2, known2 = coarser(batch.inverse_depth, batch.known, 2)
    entropy = _mean(_plane_entropy(output.logits, truth4, batch.nearest), known4)
    error2 = relative_error(output.fine, truth2, batch.nearest, planes)
    error1 = relative_error(output.inverse_depth, batch.inverse_depth, batch.nearest, planes)
    fine = _mean(_robust(error2), known2) + _mean(_robust(error1), batch.known)
    edges = _edge_error(output.inverse_depth, batch, planes)
    right = (error2 < CLOSE).to(error2.dtype)
    confidence = _mean(F.binary_cross_entropy_with_logits(output.confidence, right, reduction="none"), known2)
    log_scale = output.log_scale.clamp(-6, 1.5)
    scale = _mean(error2.detach().clamp_max(3) * torch.exp(-log_scale) + log_scale, known2)
    loss = entropy + 4 * fine + 2 * edges + 0.2 * confidence + 0.05 * scale
    with torch.no_grad():
        matched = batch.known * (batch.seen >= 1)
        logs = {
            "entropy": entropy,
            "fine": fine,
            "within5": _mean((error1 < 0.05).float(), batch.known),
            "within10": _mean((error1 < 0.10).float(), batch.known),
            "within5_seen": _mean((error1 < 0.05).float(), matched),
            "confidence": confidence,
        }
    return loss, logs


def _plane_entropy(logits: Tensor, truth: Tensor, nearest: Tensor) -> Tensor:
    """[B, 1, h, w] cross-entropy with the two planes around the truth, shared by its distance to each."""
    planes = logits.shape[1]
    place = (truth / nearest[:, None, None, None] * (planes - 1)).clamp(0, planes - 1)
    below = place.floor().long().clamp(0, planes - 2)
    share = place - below
    log_p = logits.log_softmax(1)
    return -((1 - share) * log_p.gather(1, below) + share * log_p.gather(1, below + 1))


def _robust(error: Tensor) -> Tensor:
    """Linear for small errors, logarithmic for large: precision where the surface is found, little where it is not."""
    return CLOSE * torch.log1p(error / CLOSE)


def _edge_error(inverse: Tensor, batch: StereoBatch, planes: int) -> Tensor:
    total = inverse.new_zeros(())
    for axis in (-1, -2):
        length = inverse.shape[axis] - 1
        difference = inverse.diff(dim=axis) - batch.inverse_depth.diff(dim=axis)
        both = batch.known.narrow(axis, 0, length) * batch.known.narrow(axis, 1, length)
        level = torch.maximum(
            batch.inverse_depth.narrow(axis, 0, length), (batch.nearest / planes)[:, None, None, None]
        )
        total = total + _mean(_robust(difference.abs() / level), both)
    return total


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1.0)
