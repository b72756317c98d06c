"""What a trained splat shows on photos that it never saw; shared by the demo and the benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def held_out_views(pipeline: Any) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """(outputs, batch) of each evaluation photo of a Nerfstudio pipeline, in the photos' order."""
    pipeline.eval()
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        yield pipeline.model.get_outputs_for_camera(camera=camera), batch


def held_out_metrics(pipeline: Any) -> dict[str, float]:
    """Means over the evaluation photos: `psnr` (dB), `ssim`, `lpips` where its weights are at hand, `coverage` (mean
    alpha), and their number `views`."""
    rows: list[dict[str, float]] = []
    for outputs, batch in held_out_views(pipeline):
        metrics, _ = pipeline.model.get_image_metrics_and_images(outputs, batch)
        row = {name: float(metrics[name]) for name in ("psnr", "ssim", "lpips") if name in metrics}
        rows.append({**row, "coverage": float(outputs["accumulation"].mean())})
    return {name: fmean(row[name] for row in rows) for name in rows[0]} | {"views": len(rows)}
