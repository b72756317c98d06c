"""Classifier-free guidance as pure functions."""

from __future__ import annotations

from torch import Tensor


def rescale(guided: Tensor, conditional: Tensor, factor: float) -> Tensor:
    """Pull the guided prediction's contrast back towards the conditional one's.

    guided * (factor * std(conditional) / std(guided) + 1 - factor), with the unbiased standard deviation over
    all axes but the first (Lin et al. 2023, section 3.4). A constant guided prediction is returned unchanged.

    Args:
        guided, conditional: [B, ...].
        factor: in [0, 1]; 0 = no change, 1 = the conditional prediction's contrast.
    """
    axes = tuple(range(1, guided.ndim))
    spread = guided.std(dim=axes, keepdim=True)
    ratio = (conditional.std(dim=axes, keepdim=True) / spread).where(spread > 0, 1.0)
    return guided * (factor * ratio + 1 - factor)


def guide(conditional: Tensor, unconditional: Tensor, scale: float, rescale_factor: float) -> Tensor:
    """u + scale (c - u), for predictions [B, ...] (Ho and Salimans 2022), then `rescale`, as the official sampler."""
    guided = unconditional + scale * (conditional - unconditional)
    return rescale(guided, conditional, rescale_factor) if rescale_factor > 0 else guided
