"""From sampled latents to frames: what pipeline and training have in common after the sampler."""

from __future__ import annotations

from torch import Tensor

from diffusion.candidates import candidates, mixed
from diffusion.models.chooser import Chooser
from diffusion.models.vae import Autoencoder, decode_clip


def compose_frames(
    vae: Autoencoder, latents: Tensor, rendered: Tensor | None, base: Tensor | None, chunk: int = 4
) -> Tensor:
    """Decoded frames, [B, C, T, H, W] in about [-1, 1], float32.

    Args:
        latents: [B, c, T, h, w] the sampler's.
        rendered, base: for a residual model, the renderings' latents, and the frames [B, C, T, H, W] that the decoded
            change is added to; both None = the latents are the frames' own.
    """

    def decode(values: Tensor) -> Tensor:
        return decode_clip(vae, values.to(vae.dtype), chunk).float()

    if rendered is None or base is None:
        return decode(latents)
    return base.float() + decode(rendered + latents) - decode(rendered)


def chosen_base(chooser: Chooser | None, frames: Tensor, opacity: Tensor) -> Tensor:
    """What a change is added to: the renderings [B, C, T, H, W], or the mean of `candidates` that the chooser chose.

    `opacity`: [B, 1, T, H, W] in [0, 1].
    """
    if chooser is None:
        return frames.float()
    guesses = candidates(frames.float())
    return mixed(guesses, chooser(guesses, opacity).float())
