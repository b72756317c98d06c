"""Context tokens of reference photos: what the denoiser's cross-attention sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel

from diffusion.inputs.preprocess import clip_pixels, latent_tokens
from diffusion.models.image_encoder import image_tokens
from diffusion.models.vae import Autoencoder, encode_clip, spatial_factor


def clip_context(image_encoder: CLIPVisionModel, resampler: nn.Module, photos: Sequence[Tensor]) -> Tensor:
    """Photos, each [3, h, w] in [-1, 1] and of any size -> context tokens [n, Q, D], by way of the CLIP tower."""
    dtype = next(resampler.parameters()).dtype
    return torch.cat([resampler(clip_tokens(image_encoder, [photo]).to(dtype)) for photo in photos])


def clip_tokens(image_encoder: CLIPVisionModel, photos: Sequence[Tensor]) -> Tensor:
    """What a resampler is given of photos, each [3, h, w] in [-1, 1] and of any size: the CLIP tower's tokens
    [n, L, D]."""
    size = int(image_encoder.config.image_size)  # pyright: ignore[reportArgumentType]
    pixels = torch.cat([clip_pixels(photo[None], size) for photo in photos])
    return image_tokens(image_encoder, pixels.to(image_encoder.dtype))


def latent_context(
    vae: Autoencoder, resampler: nn.Module, photos: Sequence[Tensor], size: tuple[int, int], patch: int
) -> Tensor:
    """As `clip_context`, with patches of the photo's own VAE latent instead of the CLIP tower's tokens."""
    tokens = photo_tokens(vae, photos, size, patch)
    return resampler(tokens.to(next(resampler.parameters()).dtype))


def photo_tokens(vae: Autoencoder, photos: Sequence[Tensor], size: tuple[int, int], patch: int) -> Tensor:
    """What a resampler is given of photos: `latent_tokens` of their latents, [n, L, D].

    Args:
        photos: each [3, h, w] in [-1, 1], of any size; the depth channel says "nothing known" (-1).
        size: height and width that each photo is brought to, so that the number of tokens is fixed.
        patch: side of one token's patch, in latent positions.
    """
    images = [F.interpolate(p[None], size=size, mode="bilinear", antialias=True) for p in photos]
    frames = torch.cat(images)
    missing = vae.config["in_channels"] - 3
    frames = torch.cat([frames, frames.new_full((len(frames), missing, *size), -1.0)], dim=1)
    return latent_tokens(encode_mean(vae, frames[:, :, None], chunk=1)[:, :, 0], patch)


def encode_mean(vae: Autoencoder, clip: Tensor, chunk: int) -> Tensor:
    """`encode_clip` with the mean of the posterior: [B, C, T, H, W] in [-1, 1] -> latents [B, c, T, h, w]."""
    factor = spatial_factor(vae)
    batch, _, length, height, width = clip.shape
    shape = (batch, vae.config["latent_channels"], length, height // factor, width // factor)
    return encode_clip(vae, clip.to(vae.dtype), noise=clip.new_zeros(shape), chunk=chunk)


def join_references(tokens: Tensor, split: int | None) -> Tensor:
    """The tokens of several photos as one context: [B, n, Q, D] -> [B, n * Q, D].

    Where the cross-attention treats the first `split` tokens of a photo differently from its others, all photos'
    first tokens come first; the split of the whole context is then n * `split`.
    """
    if split is None:
        return tokens.flatten(1, 2)
    return torch.cat([tokens[:, :, :split].flatten(1, 2), tokens[:, :, split:].flatten(1, 2)], dim=1)


def parameter_versions(*modules: nn.Module | None) -> tuple[int, ...]:
    """Changes whenever weights are written in place (an optimiser's step, `load_state_dict`) or modules are swapped.

    Moving modules between devices doesn't change it.
    """
    marks = []
    for module in modules:
        if module is not None:
            versions = [p._version for p in module.parameters() if not p.is_inference()]
            marks += [id(module), sum(versions)]
    return tuple(marks)
