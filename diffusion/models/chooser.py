"""Chooses between simple guesses at a better clip, from how far they lie apart and what photos show."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from diffusion.candidates import FEATURES, NAMES, candidates, features, mixed

FIRST_CHOICE = 1.5
"""Logit of the clip itself before training; its share is then about a half."""


class Chooser(ModelMixin, ConfigMixin):
    """Three layers that see one place of one frame, and its surroundings as averages; a few thousand weights.

    A network with normalisations does not see how large anything is, and so takes long to learn what this learns within
    a minute: that a clip which flickers is wrong, and where.

    Args:
        patch_size: side of a place in pixels.
        width: channels of the hidden layers.
    """

    @register_to_config
    def __init__(self, patch_size: int = 4, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(FEATURES, width, 1),
            nn.SiLU(),
            nn.Conv3d(width, width, 1),
            nn.SiLU(),
            nn.Conv3d(width, len(NAMES), 1),
        )
        last = self.layers[-1]
        nn.init.zeros_(last.get_parameter("weight"))
        nn.init.zeros_(last.get_parameter("bias"))
        with torch.no_grad():
            last.get_parameter("bias")[0] = FIRST_CHOICE

    def forward(self, frames: Tensor, opacity: Tensor, evidence: Tensor) -> Tensor:
        """The mean of a clip's `candidates`, as they are believed.

        Args:
            frames: [B, C, T, H, W] in [-1, 1], holes filled; H and W are multiples of the patch's side.
            opacity: [B, 1, T, H, W] in [0, 1], the renderings'.
            evidence: [B, 10, T, H, W] in [0, 1], the photos'.

        Returns:
            [B, C, T, H, W], float32.
        """
        guesses = candidates(frames.float(), evidence)
        return mixed(guesses, self.logits(guesses, opacity, evidence).float())

    def logits(self, guesses: Tensor, opacity: Tensor, evidence: Tensor) -> Tensor:
        """How far each guess is believed: [B, K, T, H / patch, W / patch], see `mixed`."""
        return self.layers(features(guesses, opacity, evidence, self.config["patch_size"]).to(self.dtype))
