"""What the denoiser adds to fused frames of held-out fits, in the places that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffusion.fuse import drawn_share
from diffusion.inputs.source_views import PHOTOS
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.train.fit_clips import fit_clip, inverted, kept_fit
from diffusion.train.fusion import Lpips, means, psnr

WORTH = 0.05
"""Clips of which less is drawn say nothing."""


@torch.no_grad()
def scores(pipeline: RGBDVideoRepairPipeline, files: Sequence[Path], frames: int = 8) -> dict[str, float]:
    """Means over clips of novel frames: dB and LPIPS of the fused frames and with what was drawn, the same error where
    something was drawn, sharpness there against the truth's, and how far two seeds differ there and elsewhere."""
    lpips = Lpips()
    found: list[dict[str, float]] = []
    for path in files:
        fit = kept_fit(path)
        novel = [i for i in range(len(fit.target_rgb)) if i not in fit.provenance["train"]][:frames]
        height, width = fit.target_rgb.shape[1:3]
        for snapshot in range(len(fit.render_rgb) if novel else 0):
            clip = fit_clip(path, snapshot, novel, (0, 0, height, width), PHOTOS)
            rgb, depth, alpha = (x.movedim(1, -1) for x in (clip.rgb, inverted(clip.disparity), clip.alpha))
            inputs = rgb, depth, alpha, fit.sources[snapshot][0].rgb, clip.sources
            fused = pipeline(*inputs, num_inference_steps=0)
            share = (drawn_share(torch.as_tensor(fused.certainty)) * (1 - alpha)).movedim(-1, 1)
            if float(share.mean()) < WORTH:
                continue
            drawn = [pipeline(*inputs, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
            clips = (torch.as_tensor(output.rgb).movedim(-1, 1) for output in (fused, *drawn))
            found.append(_score(lpips, *clips, share=share, target=clip.target))
    return {"clips": len(found), **means(found)}


def _score(lpips: Lpips, fused: Tensor, rgb: Tensor, second: Tensor, share: Tensor, target: Tensor) -> dict[str, float]:
    return {
        "psnr_fused": psnr(fused, target),
        "psnr": psnr(rgb, target),
        "lpips_fused": float(lpips(fused, target)),
        "lpips": float(lpips(rgb, target)),
        "sharp_fused": sharpness(fused, target, share),
        "sharp": sharpness(rgb, target, share),
        "share": float(share.mean()),
        "seeds": float(((rgb - second).abs() * share).sum() / (3 * share.sum())),
        "seeds_elsewhere": float(((rgb - second).abs() * (share == 0)).max()),
    }


def sharpness(rgb: Tensor, target: Tensor, share: Tensor) -> float:
    """Mean gradient of frames [T, 3, H, W] over the truth's, weighted by `share` [T, 1, H, W]."""

    def gradient(frames: Tensor) -> Tensor:
        grey = frames.mean(1, keepdim=True)
        across, down = grey.diff(dim=-1)[..., :-1, :].abs(), grey.diff(dim=-2)[..., :-1].abs()
        return ((across + down) * share[..., :-1, :-1]).sum()

    return float(gradient(rgb) / gradient(target).clamp_min(1e-9))
