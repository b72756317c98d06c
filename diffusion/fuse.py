"""The fusion network on a clip of any size: padded, run at the size that it was trained for, cropped."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.inputs.repair_inputs import RepairInputs
from diffusion.inputs.source_views import CHANNELS
from diffusion.models.fusion import FusionNetwork

DRAWN_BELOW, DRAWN_WHOLLY = 0.45, 0.3
"""Certainty from which nothing is drawn, and up to which drawn frames replace fused ones; a blend between them."""
WORTH_DRAWING = 0.005
"""Share of a clip from which it is worth the denoiser's time."""


@dataclass(frozen=True)
class FusedClip:
    """Frames that a network made."""

    rgb: Tensor
    """[B, T, H, W, 3] in [0, 1]."""
    disparity: Tensor | None
    """[B, T, H, W, 1]."""
    certainty: Tensor | None
    """[B, T, H, W, 1] in [0, 1]; None = unknown."""
    gain: Tensor | None = None
    """[B, T, H, W, 1] in [0, 1], see `Fused.gain`; None = unknown."""
    alpha: Tensor | None = None
    """[B, T, H, W, 1] in [0, 1] opacity of the renderings; None = unknown, as if nothing had been rendered."""

    def as_inputs(self, inputs: RepairInputs) -> RepairInputs:
        """What a denoiser sees: the fused frames in place of the renderings, certainty in place of opacity."""
        depth = None if self.disparity is None else 1 / self.disparity.clamp_min(1e-6)
        return replace(inputs, rgb=self.rgb, depth=depth, alpha=self.certainty)

    @property
    def to_draw(self) -> Tensor:
        """[B, T, H, W, 1] in [0, 1]: how much of each pixel is to be drawn anew: what is uncertain, where nothing was
        rendered. 0 in clips that hardly need it."""
        certainty = torch.ones_like(self.rgb[..., :1]) if self.certainty is None else self.certainty
        share = drawn_share(certainty)
        share = share if self.alpha is None else share * (1 - self.alpha)
        return share * (share.mean((1, 2, 3, 4), keepdim=True) >= WORTH_DRAWING)

    def completed(self, drawn: FusedClip) -> FusedClip:
        """With what was drawn, where the fused frames are too uncertain."""
        return replace(self, rgb=torch.lerp(self.rgb, drawn.rgb, self.to_draw))


def drawn_share(certainty: Tensor) -> Tensor:
    """How much of a pixel is drawn, in [0, 1], given its certainty."""
    share = ((DRAWN_BELOW - certainty) / (DRAWN_BELOW - DRAWN_WHOLLY)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def fuse_clip(network: FusionNetwork, inputs: RepairInputs) -> FusedClip:
    """Fuse clips of any size.

    Args:
        network: on the device of the inputs.
        inputs: renderings; `warped` [B, T, S, 8, H, W] or None.
    """
    rgb = inputs.rgb.movedim(-1, 2)
    height, width = rgb.shape[-2:]
    depth = torch.zeros_like(rgb[:, :, :1]) if inputs.depth is None else inputs.depth.movedim(-1, 2)
    alpha = (depth > 0).to(rgb) if inputs.alpha is None else inputs.alpha.movedim(-1, 2)
    if inputs.alpha is None and inputs.depth is None:
        alpha = torch.ones_like(alpha)
    disparity = torch.where(depth > 0, 1 / depth.clamp_min(1e-9), 0.0)
    warped = inputs.warped
    if warped is None:
        warped = rgb.new_zeros(*rgb.shape[:2], 1, CHANNELS, height, width)
    maps = [padded(x, network.multiple) for x in (rgb.clamp(0, 1), alpha.clamp(0, 1), disparity, warped)]
    fused = network(*maps)
    maps = (fused.rgb.clamp(0, 1), fused.disparity, fused.certainty, fused.gain, maps[1])
    return FusedClip(*(x[..., :height, :width].float().movedim(2, -1).contiguous() for x in maps))


def padded(values: Tensor, multiple: int) -> Tensor:
    """[..., C, H, W] with the right and lower border repeated up to multiples."""
    height, width = values.shape[-2:]
    flat = values.flatten(0, -4) if values.ndim > 4 else values
    wide = F.pad(flat, (0, -width % multiple, 0, -height % multiple), mode="replicate")
    return wide.reshape(*values.shape[:-2], *wide.shape[-2:])
