"""Chooses between simple guesses at a better clip, from how far they lie apart."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from diffusion.candidates import NAMES, disagreement_features

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
        inputs = 5 * (len(NAMES) - 1) + 3
        self.layers = nn.Sequential(
            nn.Conv3d(inputs, width, 1),
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

    def forward(self, guesses: Tensor, opacity: Tensor) -> Tensor:
        """`candidates` [B, K, C, T, H, W] and the renderings' opacity [B, 1, T, H, W] in [0, 1] -> logits
        [B, K, T, H / patch, W / patch] for `mixed`."""
        features = disagreement_features(guesses, opacity, self.config["patch_size"])
        return self.layers(features.to(self.dtype))
