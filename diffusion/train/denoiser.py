"""Trains the bundled denoiser on what the fusion network leaves open in training fits.

The autoencoder is fitted in closed form first and stays as it is. What is diffused is the difference between the
latents of the truth and of the fused frames, each channel divided by its size where the fusion network is unsure.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.configurations import LITE
from diffusion.factory import make_modules, make_scheduler
from diffusion.fuse import drawn_share
from diffusion.inputs.preprocess import latent_opacity
from diffusion.models.fusion import FusionNetwork
from diffusion.models.patch_autoencoder import PatchAutoencoder
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.sampling.conditioning import encode_mean, latent_context
from diffusion.schedulers import RescaledDPMSolverScheduler
from diffusion.train.checkpoint import TrainState, average_of
from diffusion.train.denoiser_clips import DenoiserBatch, FusedFits, make_batch
from diffusion.train.denoiser_scores import scores
from diffusion.train.fit_clips import Window
from diffusion.train.fusion import find_fits
from diffusion.train.steps import StepsConfig, train_steps

WINDOWS = (Window(6, 96, 128), Window(4, 112, 160), Window(8, 80, 112), Window(5, 128, 96), Window(4, 160, 112))
"""Sizes of the clips by turns; each costs about the same."""
FITTED = 48
"""Fits that the autoencoder and the residual's size are found from."""


@dataclass(frozen=True)
class DenoiserConfig(StepsConfig):
    """Train the denoiser beside a finished fusion network."""

    fusion: Path = Path("runs/fusion/fusion")
    """Folder of the fusion network's weights, which stay as they are."""
    capture_share: float = 0.4
    """Share of the clips that come from captures (files named capture_*)."""
    fits: Path = Path("fits")
    """Folder of training fits; files that appear while the run goes on are taken up."""
    val_fits: Path | None = None
    """Folder of fits of other scenes, for validation."""
    elsewhere: float = 0.05
    """Weight of the loss where the fusion network is sure, against 1 where it is not."""


def train(config: DenoiserConfig) -> RGBDVideoRepairPipeline:
    """Run to the end, from the newest checkpoint in `config.output`; returns the pipeline with averaged weights."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fits = FusedFits(FusionNetwork.from_pretrained(config.fusion, torch_dtype=torch.float32))
    pipeline = begin(config, fits)
    networks = nn.ModuleDict({"unet": pipeline.unet, "resampler": pipeline.resampler}).train().to(device)
    nn.Module.to(pipeline.vae, device)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    state = TrainState(networks, optimizer, average_of(networks))
    files = find_fits(config.fits)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        nonlocal files
        if step % 100 == 0:
            files = find_fits(config.fits)
        window = WINDOWS[step % len(WINDOWS)]
        batch = make_batch(fits, files, config.capture_share, config.seed, step, config.batch, window).to(device)
        return denoiser_loss(pipeline, batch, torch.Generator().manual_seed(config.seed * 1_000_003 + step), config)

    def keep() -> dict[str, Any]:
        averaged = averaged_pipeline(pipeline, networks, state)
        found = scores(averaged, find_fits(config.val_fits)) if config.val_fits else {}
        small = ("fusion", "unet", "resampler")
        averaged.register_modules(**{name: copy.deepcopy(getattr(averaged, name)).half() for name in small})
        averaged.save_pretrained(config.output / "pipeline", safe_serialization=True)
        return found

    train_steps(state, config, loss, keep)
    return averaged_pipeline(pipeline, networks, state)


def begin(config: DenoiserConfig, fits: FusedFits) -> RGBDVideoRepairPipeline:
    """The pipeline before the first step: its autoencoder and residual scale are kept in the run's folder, as they
    depend on which fits there were."""
    torch.manual_seed(config.seed)
    modules = {**make_modules(LITE), "fusion": fits.fusion}
    kept, scale = config.output / "autoencoder", config.output / "residual_scale.json"
    if not scale.is_file():
        files = find_fits(config.fits)
        files = files[:: max(1, len(files) // FITTED)]
        modules["vae"].fit(_truths(fits, files, config))
        modules["vae"].save_pretrained(kept)
        scale.write_text(json.dumps(residual_scale(modules["vae"], fits, files, config)), encoding="utf-8")
    modules["vae"] = PatchAutoencoder.from_pretrained(kept).eval().requires_grad_(False)
    settings = {**LITE.settings, "residual_scale": json.loads(scale.read_text(encoding="utf-8"))}
    return RGBDVideoRepairPipeline(**modules, scheduler=make_scheduler(LITE), **settings)  # pyright: ignore[reportArgumentType]


def _truths(fits: FusedFits, files: Sequence[Path], config: DenoiserConfig) -> Iterator[Tensor]:
    for batch in _samples(fits, files, config):
        yield batch.target.transpose(1, 2).flatten(0, 1)


def _samples(fits: FusedFits, files: Sequence[Path], config: DenoiserConfig) -> Iterator[DenoiserBatch]:
    for step in range(2 * len(files)):
        yield make_batch(fits, files, config.capture_share, config.seed + 1, step, 1, WINDOWS[step % len(WINDOWS)])


@torch.no_grad()
def residual_scale(
    vae: PatchAutoencoder, fits: FusedFits, files: Sequence[Path], config: DenoiserConfig
) -> list[float]:
    """Root mean square, per latent channel, of what the fused frames lack where the fusion network is unsure."""
    square, total = torch.zeros(vae.config["latent_channels"]), torch.zeros(())
    for batch in _samples(fits, files, config):
        off = encode_mean(vae, batch.target, chunk=16) - encode_mean(vae, batch.fused, chunk=16)
        weight = drawn_share(latent_opacity(batch.certainty, vae.config["patch_size"]))
        square += (weight * off.square()).sum((0, 2, 3, 4))
        total += weight.sum()
    return [round(float(x), 5) for x in (square / total.clamp_min(1e-9)).sqrt().clamp_min(1e-3)]


def denoiser_loss(
    pipeline: RGBDVideoRepairPipeline, batch: DenoiserBatch, random: torch.Generator, config: DenoiserConfig
) -> tuple[Tensor, dict[str, float]]:
    """Squared error of v at a random timestep per clip, mostly where the fusion network is unsure."""
    vae, scheduler = pipeline.vae, pipeline.scheduler
    assert isinstance(scheduler, RescaledDPMSolverScheduler)
    with torch.no_grad():
        fused, target = (encode_mean(vae, x, chunk=64) for x in (batch.fused, batch.target))
        certainty = latent_opacity(batch.certainty, pipeline.vae_factor)
        clean = (target - fused) / fused.new_tensor(pipeline.config["residual_scale"]).view(-1, 1, 1, 1)
        moments = torch.randint(len(scheduler), (len(clean),), generator=random)
        noise = torch.randn(clean.shape, generator=random).to(clean)
        power = scheduler.network_alphas_cumprod[moments].to(clean).view(-1, 1, 1, 1, 1)
        noised = power.sqrt() * clean + (1 - power).sqrt() * noise
        velocity = power.sqrt() * noise - (1 - power).sqrt() * clean
    context = photo_context(pipeline, batch.photos)
    sample = torch.cat([noised, fused, certainty], 1)
    found = pipeline.unet(sample, moments.to(clean.device), context, return_dict=False)[0]
    unsure = drawn_share(certainty)
    weight = (config.elsewhere + unsure).expand_as(clean)
    off = F.mse_loss(found, velocity, reduction="none")
    loss = (weight * off).sum() / weight.sum()
    drawn = (unsure * off).sum() / (unsure.sum() * clean.shape[1]).clamp_min(1e-6)
    return loss, {"drawn": float(drawn.detach()), "unsure": float(unsure.mean())}


def photo_context(pipeline: RGBDVideoRepairPipeline, photos: Sequence[Tensor]) -> Tensor:
    """Context tokens [B, Q, D] of a photo [3, h, w] in [-1, 1] for each clip, differentiable in the resampler."""
    size, patch = tuple(pipeline.config["reference_size"]), pipeline.config["token_patch"]
    return latent_context(pipeline.vae, pipeline.resampler, photos, size, patch)


def averaged_pipeline(
    pipeline: RGBDVideoRepairPipeline, networks: nn.ModuleDict, state: TrainState
) -> RGBDVideoRepairPipeline:
    """The same pipeline on the CPU with the averages of the networks' weights."""
    averaged = copy.deepcopy(networks).cpu()
    averaged.load_state_dict({name: value.cpu() for name, value in state.average.items()})
    components = {**pipeline.components, **{name: averaged[name].eval() for name in ("unet", "resampler")}}
    components["vae"] = copy.deepcopy(pipeline.vae).cpu()
    settings = {**LITE.settings, "residual_scale": pipeline.config["residual_scale"]}
    return RGBDVideoRepairPipeline(**components, **settings)
