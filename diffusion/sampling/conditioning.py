"""Context tokens of reference photos: what the denoiser's cross-attention sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel

from diffusion.inputs.preprocess import clip_pixels, latent_tokens
from diffusion.models.image_encoder import image_tokens
from diffusion.models.vae import Autoencoder, encode_clip


def clip_context(image_encoder: CLIPVisionModel, resampler: nn.Module, photos: Sequence[Tensor]) -> Tensor:
    """Photos, each [3, h, w] in [-1, 1] and of any size -> context tokens [n, Q, D], by way of the CLIP tower."""
    size = int(image_encoder.config.image_size)  # pyright: ignore[reportArgumentType]
    contexts = []
    for photo in photos:
        pixels = clip_pixels(photo[None], size).to(image_encoder.dtype)
        contexts.append(_resampled(resampler, image_tokens(image_encoder, pixels)))
    return torch.cat(contexts)


def latent_context(
    vae: Autoencoder, resampler: nn.Module, photos: Sequence[Tensor], size: tuple[int, int], patch: int
) -> Tensor:
    """As `clip_context`, with patches of the photo's own VAE latent instead of the CLIP tower's tokens.

    Args:
        vae: of its depth channel, if it has one, photos say "nothing known" (-1).
        size: height and width that each photo is brought to, so that the number of tokens is fixed.
        patch: side of one token's patch, in latent positions.
    """
    frames = torch.cat([F.interpolate(p[None], size=size, mode="bilinear", antialias=True) for p in photos])
    missing = vae.config["in_channels"] - 3
    frames = torch.cat([frames, frames.new_full((len(frames), missing, *size), -1.0)], dim=1)
    latents = encode_clip(vae, frames[:, :, None])[:, :, 0]
    return _resampled(resampler, latent_tokens(latents, patch))


def _resampled(resampler: nn.Module, tokens: Tensor) -> Tensor:
    return resampler(tokens.to(next(resampler.parameters()).dtype))


def join_references(tokens: Tensor, split: int | None) -> Tensor:
    """The tokens of several photos as one context: [n, Q, D] -> [1, n * Q, D].

    Where the cross-attention treats the first `split` tokens of a photo differently from its others, all photos'
    first tokens come first; the split of the whole context is then n * `split`.
    """
    if split is None:
        return tokens.flatten(0, 1)[None]
    return torch.cat([tokens[:, :split].flatten(0, 1), tokens[:, split:].flatten(0, 1)])[None]
