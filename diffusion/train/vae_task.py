"""The first run: the RGB-D autoencoder learns to give frames back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.configurations import get_configuration, make_autoencoder
from diffusion.models.patch_autoencoder import PatchAutoencoder
from diffusion.models.vae import Autoencoder, spatial_factor
from diffusion.train.batches import RepairBatch
from diffusion.train.config import VaeConfig
from diffusion.train.losses import kl_divergence, reconstruction


class VaeNetworks(nn.Module):
    """The autoencoder as one function, so that it can be trained over several processes."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, frames: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames [N, C, H, W] and noise like their latents -> reconstruction, and the posterior's mean and log
        variance [N, c, h, w]."""
        posterior = self.vae.encode(frames).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        latents = posterior.mean + posterior.std * noise
        return self.vae.decode(latents, return_dict=False)[0], posterior.mean, posterior.logvar  # pyright: ignore[reportReturnType]


@dataclass
class VaeTask:
    """What a step of the first run computes."""

    networks: VaeNetworks
    config: VaeConfig

    @classmethod
    def fresh(cls, config: VaeConfig) -> VaeTask:
        """Random weights that follow from the seed."""
        arguments = dict(get_configuration(config.configuration).vae)
        if not config.depth:
            arguments["in_channels" if "patch_size" in arguments else "image_channels"] = 3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return cls(VaeNetworks(make_autoencoder(arguments)), config)

    def loss(self, model: nn.Module, batch: RepairBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Reconstruction of rendered and true frames, and the divergence of their latents."""
        clips = torch.cat([batch.rendered, batch.target])
        known = torch.cat([torch.ones_like(batch.depth_known), batch.depth_known])
        vae = self.networks.vae
        frames = _frames(clips)[:, : vae.config["in_channels"]]
        factor = spatial_factor(vae)
        shape = (len(frames), vae.config["latent_channels"], frames.shape[2] // factor, frames.shape[3] // factor)
        noise = torch.randn(shape, generator=generator).to(frames)
        output, mean, logvar = model(frames, noise)
        error = reconstruction(
            output[:, :, None], frames[:, :, None], _frames(known)[:, :, None], self.config.depth_weight
        ).mean()
        divergence = kl_divergence(mean.float(), logvar.float())
        logs = {"reconstruction": float(error.detach()), "divergence": float(divergence.detach())}
        return error + self.config.kl_weight * divergence, logs


def _frames(clips: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B * T, C, H, W]."""
    return clips.transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def latent_scale(vae: Autoencoder, batches: list[RepairBatch]) -> float:
    """The factor that brings the latents of frames to unit standard deviation (Rombach et al. 2022, section 3.3)."""
    channels = vae.config["in_channels"]
    total = square = count = 0.0
    for batch in batches:
        frames = _frames(torch.cat([batch.rendered, batch.target]))[:, :channels]
        mean = vae.encode(frames).latent_dist.mean.double()  # pyright: ignore[reportAttributeAccessIssue]
        total, square, count = total + float(mean.sum()), square + float(mean.square().sum()), count + mean.numel()
    variance = square / count - (total / count) ** 2
    return 1.0 / max(variance, 1e-12) ** 0.5


def fit_patches(vae: PatchAutoencoder, batches: Iterable[RepairBatch]) -> float:
    """Fit to rendered and true frames; the share of their variance that the latents hold."""
    channels = vae.config["in_channels"]
    return vae.fit(_frames(torch.cat([batch.rendered, batch.target]))[:, :channels] for batch in batches)
