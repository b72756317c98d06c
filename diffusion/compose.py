"""From sampled latents to frames: what pipeline and training have in common after the sampler."""

from __future__ import annotations

from torch import Tensor

from diffusion.models.vae import Autoencoder, decode_clip


def compose_frames(
    vae: Autoencoder, latents: Tensor, rendered: Tensor | None, base: Tensor | None, chunk: int = 4
) -> Tensor:
    """Decoded frames, [B, C, T, H, W] in about [-1, 1], float32.

    Args:
        latents: [B, c, T, h, w] the sampler's.
        rendered, base: for a residual model, the latents of the frames [B, C, T, H, W] that the decoded change is added
            to, and these frames; both None = the latents are the frames' own.
    """

    def decode(values: Tensor) -> Tensor:
        return decode_clip(vae, values.to(vae.dtype), chunk).float()

    if rendered is None or base is None:
        return decode(latents)
    return base.float() + decode(rendered + latents) - decode(rendered)
