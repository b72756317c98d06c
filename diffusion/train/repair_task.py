"""The third run: the denoiser and the resampler learn to repair, in the frozen autoencoder's latent space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from diffusion.compose import compose_frames
from diffusion.conditioning import clip_tokens, encode_mean, photo_tokens
from diffusion.configurations import CONFIGURATIONS
from diffusion.errors import UserError
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.preprocess import latent_opacity
from diffusion.schedulers import RescaledDDIMScheduler
from diffusion.train.batches import RepairBatch, forget_evidence
from diffusion.train.config import RepairConfig
from diffusion.train.losses import (
    clean_estimate,
    draw_timesteps,
    relative_error,
    relative_frame_error,
    root_mean_square,
)
from diffusion.train.start import starting_pipeline

LATENT_FLOOR = 0.01
"""Squared error of latents below which a clip counts as right."""


class RepairNetworks(nn.Module):
    """All that is trained as one module, so that it can be trained over several processes; `beside` are
    the parts of the autoencoder that turn latents into frames, if they are trained."""

    def __init__(self, unet: nn.Module, resampler: nn.Module, beside: nn.ModuleDict) -> None:
        super().__init__()
        self.unet = unet
        self.resampler = resampler
        self.beside = beside

    def forward(self, sample: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Noisy latents and conditions [B, C, T, h, w], timesteps [B], a photo's tokens [B, L, D] -> v, float32."""
        return self.unet(sample, timesteps, self.resampler(tokens), return_dict=False)[0].float()


@dataclass
class RepairTask:
    """What a step of the third run computes."""

    pipeline: RGBDVideoRepairPipeline
    networks: RepairNetworks
    config: RepairConfig

    @classmethod
    def fresh(cls, config: RepairConfig) -> RepairTask:
        """The pipeline that `config.start` names, with another autoencoder where `config.vae` says so.

        Raises:
            UserError: there are no such weights, or they do not go together.
        """
        pipeline = starting_pipeline(config)
        if pipeline.image_encoder is not None and config.start in CONFIGURATIONS:
            raise UserError(
                f"configuration {config.start!r} has a CLIP tower, which is not trained here; start from its weights"
            )
        pipeline.vae.requires_grad_(False)
        if pipeline.chooser is not None:
            pipeline.chooser.requires_grad_(False)
        for module in pipeline.unet.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # diffusers' temporal convolutions drop a tenth, which a small network cannot spare
        beside: dict[str, nn.Module] = {}
        if config.pixel_weight and config.train_decoder:
            names = ("decoder", "post_quant_conv")
            beside |= {name: module for name, module in pipeline.vae.named_children() if name in names}
        return cls(pipeline, RepairNetworks(pipeline.unet, pipeline.resampler, nn.ModuleDict(beside)), config)

    @cached_property
    def noise_schedule(self) -> RescaledDDIMScheduler:
        """The forward process of the pipeline's sampler."""
        keys = ("num_train_timesteps", "beta_start", "beta_end", "rescale_base", "rescale_steps")
        return RescaledDDIMScheduler(**{key: self.pipeline.scheduler.config[key] for key in keys})

    def loss(self, model: nn.Module, batch: RepairBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """v-prediction's mean squared error, and that of decoded frames where the timestep is the last."""
        config, pipeline, schedule = self.config, self.pipeline, self.noise_schedule
        batch = self._chosen(forget_evidence(batch, config.evidence_dropout, generator))
        rendered, wanted, conditions, tokens = self._prepare(batch, generator)
        timesteps = draw_timesteps(len(wanted), len(schedule), config.last_share, generator).to(wanted.device)
        noise = torch.randn(wanted.shape, generator=generator).to(wanted)
        last = timesteps == len(schedule) - 1
        noise = torch.where(last.reshape(-1, 1, 1, 1, 1), pipeline.config["start_noise"] * noise, noise)
        noisy = schedule.add_noise(wanted, noise, timesteps)
        prediction = model(torch.cat([noisy, conditions], dim=1), timesteps, tokens)
        # a clip whose true depth is unknown has no true latent either: only its decoded colours teach
        whole = batch.depth_known.flatten(1).mean(1) > 0.5
        error = (prediction - schedule.get_velocity(wanted, noise, timesteps)).square().flatten(1).mean(1)
        if config.relative:
            error = relative_error(error, wanted.square().flatten(1).mean(1), LATENT_FLOOR)
        latent_error = (error * whole).mean()
        logs = {"latent": float(latent_error.detach())}
        total = config.latent_weight * latent_error
        if config.pixel_weight and last.any():
            abar = schedule.alphas_cumprod.to(wanted.device)[timesteps].reshape(-1, 1, 1, 1, 1)
            clean = clean_estimate(noisy, prediction, abar)
            pixel_error = self._pixel_error(clean[last], rendered[last], batch.where(last), generator)
            logs["pixel"] = float(pixel_error.detach())
            return total + config.pixel_weight * pixel_error, logs
        # several processes wait for a gradient of every parameter
        unused = prediction.sum() + sum(p.sum() for p in self.networks.beside.parameters())
        return total + 0.0 * unused, logs

    def _pixel_error(self, clean: Tensor, rendered: Tensor, batch: RepairBatch, generator: torch.Generator) -> Tensor:
        """Error of some decoded frames."""
        config, pipeline = self.config, self.pipeline
        chosen = torch.randperm(clean.shape[2], generator=generator)[: config.pixel_frames]
        output = pipeline_frames(pipeline, clean, rendered, batch, chosen)
        before, target = batch.rendered[:, :, chosen], batch.target[:, :, chosen]
        known, weight = batch.depth_known[:, :, chosen], config.depth_weight
        if config.relative:
            return relative_frame_error(output, before, target, known, weight)
        return root_mean_square(output, target, known, weight).mean()

    @torch.no_grad()
    def _chosen(self, batch: RepairBatch) -> RepairBatch:
        """The batch with what the pipeline's chooser, if it has one, makes of the renderings."""
        chooser = self.pipeline.chooser
        if chooser is None:
            return batch
        rendered = batch.rendered[:, : self.pipeline.vae.config["in_channels"]]
        return replace(batch, rendered=chooser(rendered, batch.opacity, batch.evidence))

    @torch.no_grad()
    def _prepare(self, batch: RepairBatch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents of the renderings, what is to be made of them, the network's conditions, and the photos' tokens."""
        pipeline = self.pipeline
        vae, settings = pipeline.vae, pipeline.config
        channels = vae.config["in_channels"]
        rendered = encode_mean(vae, batch.rendered[:, :channels], chunk=8).float()
        target = encode_mean(vae, batch.target[:, :channels], chunk=8).float()
        wanted = target - rendered if settings["residual"] else target
        opacity = latent_opacity(batch.opacity, pipeline.vae_factor)
        conditions = torch.cat([rendered, opacity], dim=1) if pipeline.takes_opacity else rendered
        dropped = torch.rand(len(wanted), generator=generator) < self.config.condition_dropout
        photos = torch.where(dropped.reshape(-1, 1, 1, 1).to(batch.photos.device), 0.0, batch.photos)
        return rendered, wanted, conditions, self._tokens(photos)

    def _tokens(self, photos: Tensor) -> Tensor:
        """What the resampler is given of photos [B, 3, h, w]."""
        pipeline = self.pipeline
        if pipeline.image_encoder is not None:
            return clip_tokens(pipeline.image_encoder, list(photos))
        size, patch = tuple(pipeline.config["reference_size"]), pipeline.config["token_patch"]
        return photo_tokens(pipeline.vae, list(photos), size, patch)


def pipeline_frames(
    pipeline: RGBDVideoRepairPipeline, clean: Tensor, rendered: Tensor, batch: RepairBatch, chosen: Tensor
) -> Tensor:
    """Frames that the pipeline would give, [B, C, n, H, W] in about [-1, 1].

    Args:
        clean: [B, c, T, h, w] the sampled latents.
        rendered: latents of the batch's renderings.
        chosen: [n] numbers of the frames that are wanted.
    """
    clean, rendered = clean[:, :, chosen], rendered[:, :, chosen]
    if not pipeline.config["residual"]:
        return compose_frames(pipeline.vae, clean, None, None)
    base = batch.rendered[:, : pipeline.vae.config["in_channels"], chosen]
    return compose_frames(pipeline.vae, clean, rendered, base)
