"""A repair pipeline of a few thousand weights, for tests of everything around the networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffusion.configurations import Configuration
from diffusion.factory import make_modules, make_scheduler
from diffusion.inputs.preprocess import TOKEN_PLACE_WIDTH
from diffusion.pipeline import RGBDVideoRepairPipeline


def lite(
    name: str,
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
        name: of the configuration.
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


LITE = lite(
    "tiny-lite",
    unet_widths=(16, 32),
    attention=(False, True),
    vae_widths=(16, 16, 32),
    latent_channels=4,
    token_patch=2,
    context_width=32,
    queries=8,
    head_width=8,
    groups=8,
)

_PATCHES: dict[str, Any] = {
    "unet_widths": (16, 32),
    "attention": (False, True),
    "vae_widths": None,
    "latent_channels": 8,
    "token_patch": 2,
    "context_width": 32,
    "queries": 8,
    "head_width": 8,
    "groups": 8,
}
PATCHES = lite("tiny-patches", **_PATCHES)
"""With the autoencoder that is fitted, not trained."""

FUSION_ARGUMENTS: dict[str, Any] = {"widths": (8, 16), "source_width": 4, "blocks": (1, 1), "trained_side": 64}
FUSION = Configuration("tiny-fusion", unet=None, fusion=FUSION_ARGUMENTS)
BOTH = replace(
    lite("tiny-both", **_PATCHES, reference_size=(16, 32), fusion=FUSION_ARGUMENTS),
    unet_class="LiteVideoUNet",
    unet={
        "in_channels": 17,
        "out_channels": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    },
)
BOTH = replace(BOTH, settings={**BOTH.settings, "residual_scale": tuple(0.5 + 0.1 * i for i in range(8))})

OFFICIAL = Configuration(  # with a CLIP tower, a split context, and posterior sampling
    name="tiny-official",
    unet={
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 24,
        "attention_head_dim": 8,
        "context_split": 3,
    },
    vae={"block_out_channels": (16, 16), "layers_per_block": 1, "norm_num_groups": 8},
    resampler={"embed_dims": 32, "output_dims": 24, "hidden_dims": 32, "depth": 1, "dim_head": 8, "heads": 2}
    | {"num_queries": 8},
    image_encoder={"width": 32, "layers": 2, "heads": 2, "patch_size": 8, "image_size": 32, "mlp_width": 64},
    few_step=False,
    scheduler={"clean_end": False},
)


def tiny_pipeline(configuration: Configuration = LITE, seed: int = 0) -> RGBDVideoRepairPipeline:
    """Random weights, none of them zero, so that every branch has a say in the result."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        modules = make_modules(configuration)
        for module in modules.values():
            for parameter in module.parameters():
                if not parameter.detach().any():
                    torch.nn.init.normal_(parameter, std=0.1)
            module.eval()
    pipe = RGBDVideoRepairPipeline(**modules, scheduler=make_scheduler(configuration), **configuration.settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def warped(seed: int = 0, frames: int = 3, height: int = 16, width: int = 24, photos: int = 2) -> Tensor:
    """[T, S, 8, H, W] what photos show of a clip: noise, in most pixels."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(frames, photos, 8, height, width, generator=generator)
    maps[:, :, 3] = (maps[:, :, 3] > 0.3).float()
    maps[:, :, 4] = maps[:, :, 4] - 0.5
    maps[:, :, 7] = 0.5 + 0.5 * maps[:, :, 7]
    return maps * maps[:, :, 3:4]


def clip(seed: int = 0, frames: int = 3, height: int = 16, width: int = 24) -> dict[str, Tensor]:
    """Arguments of a call: rgb, depth with holes, and two references of a size of their own."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(frames, height, width, 3, generator=generator)
    depth = 1 + torch.rand(frames, height, width, 1, generator=generator)
    depth[torch.rand(depth.shape, generator=generator) < 0.2] = 0
    return {"rgb": rgb, "depth": depth, "references": torch.rand(2, 20, 30, 3, generator=generator)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def repaired(pipe: RGBDVideoRepairPipeline, seed: int = 0, **kwargs: Any) -> Any:
    """A call with a seeded generator and two steps, unless told otherwise."""
    return pipe(**{"num_inference_steps": 2, "generator": seeded(seed), **kwargs})


def difference(a: Any, b: Any) -> float:
    return max(float((a.rgb - b.rgb).abs().max()), float((a.disparity - b.disparity).abs().max()))
