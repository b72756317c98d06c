"""Trains the bundled denoiser on what the fusion network leaves open in training fits.

The autoencoder is fitted in closed form first and stays as it is. What is diffused is the difference between the
latents of the truth and of the fused frames, each channel divided by its size where the fusion network is unsure.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.configurations import LITE
from diffusion.factory import make_modules, make_scheduler
from diffusion.files import replacing
from diffusion.fuse import drawn_share
from diffusion.inputs.preprocess import latent_opacity, percentile_disparity
from diffusion.models.fusion import FusionNetwork
from diffusion.models.patch_autoencoder import PatchAutoencoder
from diffusion.models.vae import decode_clip, encode_clip
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.schedulers import RescaledDPMSolverScheduler
from diffusion.train.checkpoint import TrainState, average_of
from diffusion.train.denoiser_clips import DenoiserBatch, FusedFits, make_batch
from diffusion.train.denoiser_scores import scores
from diffusion.train.fit_clips import WINDOWS, kept_fit
from diffusion.train.fusion import FitsConfig, Lpips, find_fits, seen_fits
from diffusion.train.steps import train_steps

FITTED = 48
"""Fits that the autoencoder and the residual's size are found from."""
IMPORTANCE = (1.0, 1.0, 1.0, 0.4)
"""Of colour and disparity to the autoencoder: what is drawn is colour, and the disparity stays the fused one. With 1.0
real photos come back at 29 dB, with 0.4 at 32."""

ELSEWHERE = 0.05
"""Weight of the loss where the fusion network is sure, against 1 where it is not."""


@dataclass(frozen=True)
class DenoiserConfig(FitsConfig):
    """Train the denoiser beside a finished fusion network."""

    fusion: Path = Path("runs/fusion/fusion")
    """Folder of the fusion network's weights, which stay as they are."""
    perceptual_weight: float = 1.0
    """Of LPIPS (AlexNet) of the frames that each prediction would end in, beside the squared error of v."""


def train(config: DenoiserConfig) -> RGBDVideoRepairPipeline:
    """Run to the end, from the newest checkpoint in `config.output`; returns the pipeline with averaged weights."""
    torch.set_num_threads(config.threads)  # before the autoencoder is fitted: sums depend on how many add them up
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fusion = FusionNetwork.from_pretrained(config.fusion, torch_dtype=torch.float32)
    nn.Module.to(fusion, device)
    fits = FusedFits(fusion)
    pipeline = begin(config, fits)
    lpips = Lpips().to(device) if config.perceptual_weight else None
    networks = nn.ModuleDict({"unet": pipeline.unet, "resampler": pipeline.resampler}).train().to(device)
    nn.Module.to(pipeline.vae, device)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    state = TrainState(networks, optimizer, average_of(networks))
    known = find_fits(config.fits)
    if config.workers:
        fits.fuse_all(known)

    def make(step: int) -> DenoiserBatch:
        window = WINDOWS[step % len(WINDOWS)]
        files = known if config.workers else seen_fits(config.fits, step // 100)
        return make_batch(fits, files, config.capture_share, config.seed, step, config.batch, window)

    def loss(step: int, batch: DenoiserBatch) -> tuple[Tensor, dict[str, Tensor]]:
        random = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        return denoiser_loss(pipeline, batch.to(device), random, config.perceptual_weight, lpips)

    def keep() -> dict[str, Any]:
        averaged = averaged_pipeline(pipeline, networks, state)
        found = scores(averaged, find_fits(config.val_fits)) if config.val_fits else {}
        small = ("fusion", "unet", "resampler")
        averaged.register_modules(**{name: copy.deepcopy(getattr(averaged, name)).half() for name in small})
        averaged.save_pretrained(config.output / "pipeline", safe_serialization=True)
        return found

    train_steps(state, config, make, loss, keep)
    return averaged_pipeline(pipeline, networks, state)


def begin(config: DenoiserConfig, fits: FusedFits) -> RGBDVideoRepairPipeline:
    """The pipeline before the first step: its autoencoder and residual scale are kept in the run's folder, as they
    depend on which fits there were."""
    torch.manual_seed(config.seed)
    modules = {**make_modules(LITE), "fusion": fits.fusion}
    if config.start is not None:
        for name in ("unet", "resampler"):
            modules[name] = type(modules[name]).from_pretrained(config.start / name, torch_dtype=torch.float32)
    kept, scale = config.output / "autoencoder", config.output / "residual_scale.json"
    if not scale.is_file():
        files = find_fits(config.fits)
        files = files[:: max(1, len(files) // FITTED)]
        modules["vae"].fit(map(plain_frames, files), IMPORTANCE)
        modules["vae"].save_pretrained(kept)
        with replacing(scale) as temporary:
            temporary.write_text(json.dumps(residual_scale(modules["vae"], fits, files, config)), encoding="utf-8")
    modules["vae"] = PatchAutoencoder.from_pretrained(kept).eval().requires_grad_(False)
    settings = {**LITE.settings, "residual_scale": json.loads(scale.read_text(encoding="utf-8"))}
    return RGBDVideoRepairPipeline(**modules, scheduler=make_scheduler(LITE), **settings)  # pyright: ignore[reportArgumentType]


def plain_frames(path: Path) -> Tensor:
    """[F, 4, H, W] the true frames of a fit in network space, whole, in their own colours."""
    fit = kept_fit(path)
    disparity = percentile_disparity(fit.target_depth.float()[None]).values[0]
    frames = torch.cat([2 * fit.target_rgb.float() / 255 - 1, disparity], -1).movedim(-1, 1)
    height, width = (side // 16 * 16 for side in frames.shape[-2:])
    return frames[..., :height, :width]


@torch.no_grad()
def residual_scale(
    vae: PatchAutoencoder, fits: FusedFits, files: Sequence[Path], config: DenoiserConfig
) -> list[float]:
    """Root mean square, per latent channel, of what the fused frames lack where the fusion network is unsure."""
    square, total = torch.zeros(vae.config["latent_channels"]), torch.zeros(())
    for step in range(2 * len(files)):
        window = WINDOWS[step % len(WINDOWS)]
        batch = make_batch(fits, files, config.capture_share, config.seed + 1, step, 1, window)
        off = encode_clip(vae, batch.target, chunk=16) - encode_clip(vae, batch.fused, chunk=16)
        weight = drawn_share(latent_opacity(batch.certainty, vae.config["patch_size"]))
        square += (weight * off.square()).sum((0, 2, 3, 4))
        total += weight.sum()
    return [round(float(x), 5) for x in (square / total.clamp_min(1e-9)).sqrt().clamp_min(1e-3)]


def denoiser_loss(
    pipeline: RGBDVideoRepairPipeline,
    batch: DenoiserBatch,
    random: torch.Generator,
    perceptual_weight: float = 0.0,
    lpips: Lpips | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of v at a random timestep per clip, mostly where the fusion network is unsure; and LPIPS of the
    frames that the prediction stands for."""
    vae, scheduler = pipeline.vae, pipeline.scheduler
    assert isinstance(scheduler, RescaledDPMSolverScheduler)
    with torch.no_grad():
        fused, target = (encode_clip(vae, x, chunk=64) for x in (batch.fused, batch.target))
        certainty = latent_opacity(batch.certainty, pipeline.vae_factor)
        size = fused.new_tensor(pipeline.config["residual_scale"]).view(-1, 1, 1, 1)
        clean = (target - fused) / size
        moments = torch.randint(len(scheduler), (len(clean),), generator=random)
        noise = torch.randn(clean.shape, generator=random).to(clean)
        signal = scheduler.network_alphas_cumprod[moments].to(clean).view(-1, 1, 1, 1, 1).sqrt()
        rest = (1 - signal.square()).sqrt()
        noised, velocity = signal * clean + rest * noise, signal * noise - rest * clean
    context = pipeline.photo_tokens(batch.photos)
    sample = torch.cat([noised, fused, certainty], 1)
    found = pipeline.unet(sample, moments.to(clean.device), context, return_dict=False)[0]
    unsure = drawn_share(certainty)
    weight = (ELSEWHERE + unsure).expand_as(clean)
    off = F.mse_loss(found, velocity, reduction="none")
    loss = (weight * off).sum() / weight.sum()
    drawn = (unsure * off).sum() / (unsure.sum() * clean.shape[1]).clamp_min(1e-6)
    logs = {"drawn": drawn, "unsure": unsure.mean()}
    if lpips is not None:
        frames = decode_clip(vae, fused + size * (signal * noised - rest * found), chunk=64)
        rgb = torch.lerp(batch.fused[:, :3], frames[:, :3], drawn_share(batch.certainty)).clamp(-1.4, 1.4)
        perceptual = lpips(*((x.transpose(1, 2).flatten(0, 1) + 1) / 2 for x in (rgb, batch.target[:, :3])))
        loss = loss + perceptual_weight * perceptual
        logs["lpips"] = perceptual
    return loss, logs


def averaged_pipeline(
    pipeline: RGBDVideoRepairPipeline, networks: nn.ModuleDict, state: TrainState
) -> RGBDVideoRepairPipeline:
    """The same pipeline on the CPU with the averages of the networks' weights."""
    averaged = copy.deepcopy(networks).cpu()
    averaged.load_state_dict({name: value.cpu() for name, value in state.average.items()})
    components = {**pipeline.components, **{name: averaged[name].eval() for name in ("unet", "resampler")}}
    components |= {name: copy.deepcopy(getattr(pipeline, name)).cpu() for name in ("vae", "fusion")}
    settings = {**LITE.settings, "residual_scale": pipeline.config["residual_scale"]}
    return RGBDVideoRepairPipeline(**components, **settings)
