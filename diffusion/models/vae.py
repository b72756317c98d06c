"""Clips through the RGB-D autoencoder: diffusers' `AutoencoderKL` with as many image channels as one asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from diffusion.models.patch_autoencoder import PatchAutoencoder

# The factor on the latents that the official networks were trained with.
SCALING_FACTOR = 0.18215


def make_vae(
    image_channels: int = 4,
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
    layers_per_block: int = 2,
    latent_channels: int = 4,
    norm_num_groups: int = 32,
    mid_attention: bool = True,
) -> AutoencoderKL:
    """An autoencoder with random weights; the defaults are the official RGB-D one's (83 656 168 parameters).

    Args:
        image_channels: 4 for RGB and disparity, 3 for RGB alone.
        block_out_channels: widths, from the image to the latent; each but the last halves the resolution.
        layers_per_block: residual blocks per width in the encoder (the decoder has one more).
        latent_channels: channels of the latent.
        norm_num_groups: must divide every width.
        mid_attention: whether the middle blocks hold a self-attention over all latent positions.
    """
    levels = len(block_out_channels)
    return AutoencoderKL(
        in_channels=image_channels,
        out_channels=image_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        block_out_channels=block_out_channels,  # pyright: ignore[reportArgumentType]
        layers_per_block=layers_per_block,
        latent_channels=latent_channels,
        norm_num_groups=norm_num_groups,
        scaling_factor=SCALING_FACTOR,
        mid_block_add_attention=mid_attention,
    )


Autoencoder = AutoencoderKL | PatchAutoencoder


def spatial_factor(vae: Autoencoder) -> int:
    """Pixels per latent position, along each side."""
    if "patch_size" in vae.config:
        return int(vae.config["patch_size"])
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def encode_clip(vae: Autoencoder, clip: Tensor, noise: Tensor | None = None, chunk: int = 1) -> Tensor:
    """Clip -> scaled latents: scaling_factor * (mean + std * noise), a sample of the posterior of every frame.

    Args:
        clip: [B, C, T, H, W] in [-1, 1]; H and W divisible by the autoencoder's factor.
        noise: [B, latent channels, T, h, w]; None = the posterior's mean.
        chunk: frames that pass through the encoder together; memory grows with it, the result stays the same.

    Returns:
        [B, latent channels, T, h, w]
    """

    def moments(frames: Tensor) -> Tensor:
        return vae.encode(frames).latent_dist.parameters  # pyright: ignore[reportAttributeAccessIssue]

    mean, logvar = _by_frames(moments, clip.to(vae.dtype), chunk).chunk(2, dim=1)
    if noise is not None:
        mean = mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * noise.to(mean)
    return mean * vae.config["scaling_factor"]


def decode_clip(vae: Autoencoder, latents: Tensor, chunk: int = 1) -> Tensor:
    """Scaled latents [B, latent channels, T, h, w] -> clip [B, C, T, H, W], about [-1, 1], not clamped.

    `chunk` frames pass through the decoder together; memory grows with it, the result stays the same.
    """

    def decode(frames: Tensor) -> Tensor:
        return vae.decode(frames, return_dict=False)[0]  # pyright: ignore[reportArgumentType]

    return _by_frames(decode, latents / vae.config["scaling_factor"], chunk)


def _by_frames(function: Callable[[Tensor], Tensor], clip: Tensor, chunk: int) -> Tensor:
    """Apply a function of frames [n, C, H, W] -> [n, C', H', W'] to a clip [B, C, T, H, W], `chunk` at a time."""
    frames = clip.transpose(1, 2).flatten(0, 1)
    out = torch.cat([function(part) for part in frames.split(chunk)])
    return out.unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)
