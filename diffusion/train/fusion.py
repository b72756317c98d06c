"""Trains the fusion network on fits that `genfusion-make-fits` wrote."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.inputs.filling import filled
from diffusion.inputs.source_views import PHOTOS
from diffusion.models.fusion import TOLERANCE, Fused, FusionNetwork
from diffusion.train.checkpoint import TrainState, average_of
from diffusion.train.fit_clips import WINDOWS, FusionBatch, Window, fit_clip, keep_all_warps, kept_fit, make_batch
from diffusion.train.steps import StepsConfig, train_steps

SMALL_WINDOWS = (Window(4, 64, 96), Window(3, 96, 64), Window(3, 80, 80), Window(6, 48, 80), Window(3, 64, 112))
"""As WINDOWS, while a run begins."""
PERCEPTUAL_FROM = 500
"""First step with LPIPS."""
DISPARITY_WEIGHT = 0.1
"""Of the absolute error of log disparity where the truth is known."""
CERTAINTY_WEIGHT = 0.02
"""Of the error's likelihood, which makes the network say how wrong it is."""


@dataclass(frozen=True)
class FitsConfig(StepsConfig):
    """What the runs on fits share."""

    start: Path | None = None
    """Weights of an earlier run to begin with (of the fusion network its folder fusion, of the denoiser its folder
    pipeline); None = random ones."""
    capture_share: float = 0.4
    """Share of the clips that come from captures (files named capture_*)."""
    fits: Path = Path("fits")
    """Folder of training fits; files that appear while the run goes on are taken up."""
    val_fits: Path | None = None
    """Folder of fits of other scenes, for validation."""


@dataclass(frozen=True)
class FusionConfig(FitsConfig):
    """Train the fusion network."""

    perceptual_weight: float = 0.1
    """Of LPIPS (AlexNet) beside the absolute error of colour; 0 = none."""
    small_steps: int = 5000
    """So many steps come first with windows of a third of the size."""


class Lpips(torch.nn.Module):
    """LPIPS with AlexNet, differentiable; needs torchvision's weights in torch hub's folder."""

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        self.net = LearnedPerceptualImagePatchSimilarity(net_type="alex").net.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean over images [N, 3, H, W] in [0, 1]."""
        return self.net(2 * a - 1, 2 * b - 1).mean()


def train(config: FusionConfig) -> FusionNetwork:
    """Run to the end, from the newest checkpoint in `config.output`; returns the network with averaged weights."""
    known = find_fits(config.fits)
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = FusionNetwork() if config.start is None else FusionNetwork.from_pretrained(config.start)
    torch.nn.Module.to(network, device, torch.float32)
    lpips = Lpips().to(device) if config.perceptual_weight else None
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    state = TrainState(network, optimizer, average_of(network))
    if config.workers:
        keep_all_warps(known, PHOTOS, device)

    def make(step: int) -> FusionBatch:
        windows = SMALL_WINDOWS if step < config.small_steps else WINDOWS
        window = windows[step % len(windows)]
        files = known if config.workers else seen_fits(config.fits, step // 100)
        return make_batch(files, config.capture_share, config.seed, step, config.batch, window, PHOTOS)

    def loss(step: int, batch: FusionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        batch = batch.to(device)
        fused = network(batch.rgb, batch.alpha, batch.disparity, batch.sources)
        return fusion_loss(fused, batch, config.perceptual_weight, lpips if step >= PERCEPTUAL_FROM else None)

    def keep() -> dict[str, Any]:
        averaged = copy.deepcopy(network)
        averaged.load_state_dict(state.average)
        averaged.half().save_pretrained(config.output / "fusion", safe_serialization=True)
        return validation(averaged.float().eval(), find_fits(config.val_fits)) if config.val_fits else {}

    train_steps(state, config, make, loss, keep)
    network.load_state_dict(state.average)
    return network


def find_fits(folder: Path) -> list[Path]:
    """The training fits in a folder. Raises UserError if there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no training fits; make some with genfusion-make-fits --output {folder}")
    return files


@lru_cache(maxsize=1)
def seen_fits(folder: Path, look: int) -> list[Path]:
    """As `find_fits`; the folder is looked at anew whenever `look` changes."""
    return find_fits(folder)


def fusion_loss(
    fused: Fused, batch: FusionBatch, perceptual_weight: float, lpips: Lpips | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Error of the colour (absolute, and LPIPS), of log disparity, and of what the network says about its own error."""
    off = (fused.rgb - batch.target).abs().mean(2, keepdim=True)
    colour = off.mean()
    base = filled(batch.rgb.flatten(0, 1), batch.alpha.flatten(0, 1)).view_as(batch.rgb)
    off_before = (base - batch.target).abs().mean(2, keepdim=True)
    likelihood = _likelihood(off, fused.scale) + _likelihood(off_before, fused.scale_before)
    known = (batch.target_disparity > 0).to(off)
    ratio = (fused.disparity / batch.target_disparity.clamp_min(1e-6)).log().clamp(-3, 3).abs()
    disparity = (ratio * known).sum() / known.sum().clamp_min(1)
    loss = colour + DISPARITY_WEIGHT * disparity + CERTAINTY_WEIGHT * likelihood
    logs = {"colour": colour, "before": off_before.mean(), "disparity": disparity, "likelihood": likelihood}
    if lpips is not None:
        perceptual = lpips(fused.rgb.clamp(-0.2, 1.2).flatten(0, 1), batch.target.flatten(0, 1))
        loss = loss + perceptual_weight * perceptual
        logs["lpips"] = perceptual
    return loss, logs


def _likelihood(error: Tensor, scale: Tensor) -> Tensor:
    """Negative logarithm of a Laplace distribution's density at errors, which are not moved by it."""
    return (error.detach() / scale + scale.log()).mean()


@torch.no_grad()
def validation(network: FusionNetwork, files: Sequence[Path], frames: int = 8) -> dict[str, float]:
    """Means over the novel frames of every fit: dB before and after, LPIPS before and after, calibration."""
    lpips = Lpips().to(network.device)
    found: list[dict[str, float]] = []
    for path in files:
        fit = kept_fit(path)
        novel = [i for i in range(len(fit.target_rgb)) if i not in fit.provenance["train"]][:frames]
        if not novel:
            continue
        height, width = (side // network.multiple * network.multiple for side in fit.target_rgb.shape[1:3])
        for snapshot in range(len(fit.render_rgb)):
            clip = fit_clip(path, snapshot, novel, (0, 0, height, width), PHOTOS).to(network.device)
            fused = network(*(x[None] for x in (clip.rgb, clip.alpha, clip.disparity, clip.sources)))
            rgb = fused.rgb[0].clamp(0, 1)
            off = (fused.rgb[0] - clip.target).abs().mean(1, keepdim=True)
            scores = {
                "psnr_before": psnr(clip.rgb, clip.target),
                "psnr": psnr(rgb, clip.target),
                "lpips_before": float(lpips(clip.rgb, clip.target)),
                "lpips": float(lpips(rgb, clip.target)),
                "certainty": float(fused.certainty.mean()),
                "right": float((off < TOLERANCE).float().mean()),
                "gain": float(fused.gain.mean()),
            }
            found.append(scores)
    return means(found)


def means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each score over all rows, rounded; empty without rows."""
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in (rows[0] if rows else ())}


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over frames [T, 3, H, W], dB."""
    error = (a - b).square().flatten(1).mean(1).clamp_min(1e-8)
    return float((-10 * error.log10()).mean())
