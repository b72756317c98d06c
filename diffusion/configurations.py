"""Named sizes of the model: the official one, and small ones for training and running on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffusion.errors import UserError
from diffusion.inputs.preprocess import TOKEN_PLACE_WIDTH


@dataclass(frozen=True)
class Configuration:
    """Arguments of the networks' and the pipeline's constructors; what is left out takes their (official) defaults.

    `unet_class` names one of `factory.UNETS`. `image_encoder` None = no CLIP tower, `fusion` None = no fusion network,
    `unet` None = no video diffusion at all. `few_step` = the sampler is the few-step solver, not DDIM, and `scheduler`
    has its arguments. `settings` are the pipeline's plain arguments.
    """

    name: str
    unet: dict[str, Any] | None = field(default_factory=dict)
    unet_class: str = "RGBDVideoUNet"
    vae: dict[str, Any] = field(default_factory=dict)
    resampler: dict[str, Any] = field(default_factory=dict)
    image_encoder: dict[str, Any] | None = None
    fusion: dict[str, Any] | None = None
    few_step: bool = True
    scheduler: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


OFFICIAL = Configuration("official", image_encoder={}, few_step=False, scheduler={"clean_end": False})
"""The network of the official checkpoint: 2.2 B parameters, 25 DDIM steps with guidance."""

LITE = Configuration(
    name="lite",
    unet_class="LiteVideoUNet",
    unet={"in_channels": 33, "out_channels": 16, "block_out_channels": (64, 128, 192), "cross_attention_dim": 64},
    vae={"patch_size": 4, "latent_channels": 16},
    resampler={
        "embed_dims": 16 * 4**2 + TOKEN_PLACE_WIDTH,
        "output_dims": 64,
        "hidden_dims": 64,
        "depth": 2,
        "dim_head": 16,
        "heads": 4,
        "num_queries": 32,
    },
    fusion={},
    scheduler={"rescale_base": 1.0},
    settings={
        "sample_posterior": False,
        "disparity_rule": "percentile",
        "reference_size": (96, 160),
        "token_patch": 4,
        "default_steps": 4,
        "default_guidance_scale": 1.0,
        "default_guidance_rescale": 0.0,
    },
)
"""Fusion of renderings and photos, and a small video diffusion model for what no photo shows."""

CONFIGURATIONS: dict[str, Configuration] = {c.name: c for c in (OFFICIAL, LITE)}


def get_configuration(name: str) -> Configuration:
    """Look a configuration up. Raises UserError for an unknown name."""
    if name not in CONFIGURATIONS:
        raise UserError(f"there is no configuration {name!r}; expected one of {', '.join(CONFIGURATIONS)}")
    return CONFIGURATIONS[name]
