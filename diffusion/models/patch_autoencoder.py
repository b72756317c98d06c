"""An autoencoder that needs no training: principal components of pixel patches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

LOG_VARIANCE = -30.0
"""Of the posterior: the encoder is certain."""


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Frames to latents and back with the interface of diffusers' `AutoencoderKL`.

    A latent position holds the leading principal components of its patch of pixels, all image channels together (the
    best linear code there is: Eckart and Young 1936). Decoding is the transpose.

    Args:
        in_channels: image channels, 4 for RGB and disparity.
        latent_channels: components per patch.
        patch_size: side of a patch in pixels.
        scaling_factor: brings latents to unit variance.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        latent_channels: int = 16,
        patch_size: int = 4,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(in_channels, latent_channels, patch_size, stride=patch_size)
        self.decoder = PatchDecoder(latent_channels, in_channels, patch_size)

    @apply_forward_hook  # model offload hangs on it, as on forward
    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """Frames [N, C, H, W] in [-1, 1] -> `.latent_dist` over [N, c, H / patch, W / patch], without variance."""
        mean = self.encoder(x)
        parameters = torch.cat([mean, torch.full_like(mean, LOG_VARIANCE)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(parameters))

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Latents [N, c, h, w] -> frames [N, C, h * patch, w * patch], about [-1, 1]."""
        frames = self.decoder(z)
        return DecoderOutput(sample=frames) if return_dict else (frames,)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], importance: Sequence[float] | None = None) -> float:
        """Set encoder and decoder from example frames [N, C, H, W] in [-1, 1].

        Components are divided by the root of their standard deviation: between raw ones, of which the mean colour
        outweighs all others, and whitened ones, of which noise counts as much as colour.

        Args:
            importance: of errors in each image channel; None = all alike.

        Returns:
            Share of the patches' variance, so weighed, that the components hold.
        """
        patch = self.config["patch_size"]
        mean, covariance = patch_statistics(batches, patch)
        weight = torch.tensor(importance or [1.0] * self.config["in_channels"]).double().repeat_interleave(patch**2)
        covariance = weight[:, None] * covariance * weight
        values, vectors = torch.linalg.eigh(covariance)
        count = self.config["latent_channels"]
        values, vectors = values.flip(0)[:count].clamp_min(1e-8), vectors.flip(1)[:, :count]
        share = float(values.sum() / covariance.trace().clamp_min(1e-12))
        scale = values**0.25
        self._set_linear(mean, weight[:, None] * vectors / scale, vectors * scale / weight[:, None])
        self.register_to_config(scaling_factor=float((values / scale**2).mean() ** -0.5))
        return share

    def _set_linear(self, mean: Tensor, analysis: Tensor, synthesis: Tensor) -> None:
        """z = (x - mean) A and x = mean + S z, as convolutions."""
        channels, patch = self.config["in_channels"], self.config["patch_size"]
        shape = (-1, channels, patch, patch)
        self.encoder.weight.copy_(analysis.T.reshape(shape))
        self.encoder.bias.copy_(-(mean @ analysis))  # pyright: ignore[reportOptionalMemberAccess]
        self.decoder.patches.weight.copy_(synthesis.T.reshape(shape))
        self.decoder.offset.copy_(mean.reshape(channels, patch, patch))


class PatchDecoder(nn.Module):
    """Latents to patches."""

    def __init__(self, latent_channels: int, channels: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.ConvTranspose2d(latent_channels, channels, patch, stride=patch, bias=False)
        self.offset = nn.Parameter(torch.zeros(channels, patch, patch))

    def forward(self, z: Tensor) -> Tensor:
        """[N, c, h, w] -> [N, C, h * patch, w * patch]."""
        return self.patches(z) + self.offset.repeat(1, *z.shape[-2:])


def patch_statistics(batches: Iterable[Tensor], patch: int) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of all patches of frames [N, C, H, W]; D = C * patch^2, float64."""
    total = square = torch.zeros((), dtype=torch.float64)
    count = 0
    for frames in batches:
        patches = nn.functional.unfold(frames.double(), patch, stride=patch).transpose(1, 2).flatten(0, 1)
        total, square, count = total + patches.sum(0), square + patches.T @ patches, count + len(patches)
    mean = total / max(count, 1)
    return mean, square / max(count, 1) - torch.outer(mean, mean)
