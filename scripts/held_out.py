"""What a trained splat shows on photos that it never saw; shared by the demo and the benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

REPO = Path(__file__).resolve().parents[1]


def code_hash() -> str:
    """A hash of the source that training and evaluation run; results of other code are not read back."""
    digest = hashlib.sha256()
    packages = [path for folder in ("genfusion_ns", "diffusion") for path in (REPO / folder).rglob("*.py")]
    for path in sorted([*packages, REPO / "scripts" / "benchmark_row.py", Path(__file__).resolve()]):
        digest.update(str(path.relative_to(REPO)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


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
