"""Named sizes of the model: the official one, and small ones for training and running on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffusion.errors import UserError
from diffusion.inputs.preprocess import TOKEN_PLACE_WIDTH


@dataclass(frozen=True)
class Configuration:
    """Arguments of the networks' and the pipeline's constructors; what is left out takes their (official) defaults.

    `image_encoder` None = no CLIP tower, `fusion` None = no fusion network, `unet` None = no video diffusion at all.
    `few_step` = the sampler is the few-step solver, not DDIM. `scheduler` holds arguments of that sampler. `settings`
    are the pipeline's plain arguments.
    """

    name: str
    summary: str
    unet: dict[str, Any] | None = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    resampler: dict[str, Any] = field(default_factory=dict)
    image_encoder: dict[str, Any] | None = None
    fusion: dict[str, Any] | None = None
    few_step: bool = True
    scheduler: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def lite(
    name: str,
    summary: str,
    unet_widths: tuple[int, ...],
    attention: tuple[bool, ...],
    vae_widths: tuple[int, ...] | None,
    latent_channels: int,
    token_patch: int,
    context_width: int = 128,
    queries: int = 64,
    head_width: int = 16,
    groups: int = 16,
    reference_size: tuple[int, int] = (192, 320),
    fusion: dict[str, Any] | None = None,
) -> Configuration:
    """A configuration of the lite family: no CLIP tower, opacity as an extra input channel, few steps, no guidance.

    Args:
        name, summary: see `Configuration`.
        unet_widths: channels of the UNet's levels, each at half the resolution of the one before.
        attention: which levels have spatial and temporal attention; its cost at a level grows with the square of the
            number of latent positions.
        vae_widths: channels of the autoencoder's levels; the number of pixels per latent position and side is
            2 ** (number of levels - 1). None = principal components of patches of 4 x 4 pixels, see `PatchAutoencoder`.
        latent_channels: channels of the latent.
        token_patch: side of a reference token's patch, in latent positions.
        context_width: channels of the context tokens, and of the resampler.
        queries: number of context tokens per reference.
        head_width: channels of an attention head.
        groups: of every group norm; divides every width.
        reference_size: height and width that photos are brought to.
        fusion: of the fusion network; None = none.
    """
    return Configuration(
        name=name,
        summary=summary,
        unet={
            "in_channels": 2 * latent_channels + 1,
            "out_channels": latent_channels,
            "block_out_channels": unet_widths,
            "down_block_types": tuple("CrossAttnDownBlock3D" if a else "DownBlock3D" for a in attention),
            "up_block_types": tuple("CrossAttnUpBlock3D" if a else "UpBlock3D" for a in attention[::-1]),
            "layers_per_block": 1,
            "norm_num_groups": groups,
            "cross_attention_dim": context_width,
            "attention_head_dim": head_width,
            "context_split": None,
            "tokens_per_frame": None,
        },
        vae={"patch_size": 4, "latent_channels": latent_channels}
        if vae_widths is None
        else {
            "block_out_channels": vae_widths,
            "layers_per_block": 1,
            "latent_channels": latent_channels,
            "norm_num_groups": groups,
            "mid_attention": False,
        },
        resampler={
            "embed_dims": latent_channels * token_patch**2 + TOKEN_PLACE_WIDTH,
            "output_dims": context_width,
            "hidden_dims": context_width,
            "depth": 2,
            "dim_head": head_width,
            "heads": context_width // head_width,
            "num_queries": queries,
        },
        fusion=fusion,
        # The dynamic rescale belongs to the official weights; ours are trained without it.
        scheduler={"rescale_base": 1.0},
        settings={
            "sample_posterior": False,
            "disparity_rule": "percentile",
            "reference_size": reference_size,
            "token_patch": token_patch,
            "default_steps": 4,
            "default_guidance_scale": 1.0,
            "default_guidance_rescale": 0.0,
        },
    )


OFFICIAL = Configuration(
    name="official",
    summary="the network of the official checkpoint: 2.2 B parameters, 25 DDIM steps with guidance",
    image_encoder={},
    few_step=False,
    scheduler={"clean_end": False},
)

LITE = lite(
    name="lite",
    summary="fusion of renderings and photos, and a small video diffusion model for what no photo shows",
    unet_widths=(48, 64, 96, 96),
    attention=(False, False, True, True),
    vae_widths=None,
    latent_channels=16,
    token_patch=4,
    context_width=64,
    queries=32,
    reference_size=(96, 160),
    fusion={},
)
LITE_SMALL = Configuration(
    name="lite-small",
    summary="fusion of renderings and photos alone: nothing is invented; what is bundled",
    unet=None,
    fusion={},
)

CONFIGURATIONS: dict[str, Configuration] = {c.name: c for c in (OFFICIAL, LITE, LITE_SMALL)}


def get_configuration(name: str) -> Configuration:
    """Look a configuration up. Raises UserError for an unknown name."""
    if name not in CONFIGURATIONS:
        raise UserError(f"there is no configuration {name!r}; expected one of {', '.join(CONFIGURATIONS)}")
    return CONFIGURATIONS[name]
