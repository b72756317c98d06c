"""A render against its photo, as Nerfstudio's evaluation and writers take it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genfusion_ns.gaussians import losses

Metric = Callable[[Tensor, Tensor], Tensor]
"""Of two images [1, 3, H, W] in [0, 1]."""


def image_metrics(
    outputs: dict[str, Tensor], target: Tensor, psnr: Metric, lpips: Callable[[Tensor, Tensor], float | None]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """PSNR, SSIM, and LPIPS where its weights are at hand; pictures [H, W, 3] for the writers.

    Args:
        outputs: the model's, outside of training.
        target: [H, W, 3] photo in [0, 1].
        psnr: torchmetrics' of a data range of 1.
        lpips: None = it cannot be had.
    """
    images = {
        "img": torch.cat([target, outputs["rgb"]], dim=1),
        "normal": outputs["normal"],
        "accumulation": outputs["accumulation"].expand(-1, -1, 3),
    }
    nchw = [image.permute(2, 0, 1)[None] for image in (target, outputs["rgb"])]
    metrics = {"psnr": float(psnr(nchw[1], nchw[0])), "ssim": float(losses.ssim(outputs["rgb"], target))}
    distance = lpips(nchw[0], nchw[1])
    if distance is not None:
        metrics["lpips"] = distance
    return metrics, images
