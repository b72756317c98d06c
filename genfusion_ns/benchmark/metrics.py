"""What a trained splat shows on photos that it never saw; shared by the demo and the benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from genfusion_ns.gaussians.losses import sharpness

REPO = Path(__file__).resolve().parents[2]
LPIPS_BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
"""torchvision's files of the networks that LPIPS compares features of."""
LEAST_SIDE = 32
"""Smaller images vanish in the networks' pooling."""


def code_hash() -> str:
    """A hash of the source that training and evaluation run; results of other code are not read back."""
    digest = hashlib.sha256()
    packages = [path for folder in ("genfusion_ns", "diffusion") for path in (REPO / folder).rglob("*.py")]
    for path in sorted(packages):
        digest.update(str(path.relative_to(REPO)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def held_out_views(pipeline: Any) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """(outputs, batch) of each evaluation photo of a Nerfstudio pipeline, in the photos' order."""
    pipeline.eval()
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        yield pipeline.model.get_outputs_for_camera(camera=camera), batch


class Perceptual:
    """LPIPS as usual (`lpips`, AlexNet, and `lpips_vgg`, images mapped to [-1, 1]), and as splatting papers compute it
    (`lpips_vgg_paper`: VGG fed with [0, 1]). A network whose weights cannot be had is left out, with one line."""

    def __init__(self, nets: tuple[str, ...] = ("alex", "vgg")) -> None:
        self._nets = nets
        self._metrics: dict[str, Any] = {}

    @torch.no_grad()
    def __call__(self, image: Tensor, target: Tensor) -> dict[str, float]:
        """Distances of two images [H, W, 3] in [0, 1]; none where they are smaller than 32 pixels."""
        if min(image.shape[:2]) < LEAST_SIDE:
            return {}
        pair = [tensor.clamp(0, 1).permute(2, 0, 1)[None] for tensor in (image, target)]
        found: dict[str, float] = {}
        for net in self._nets:
            name = "lpips" if net == "alex" else f"lpips_{net}"
            metric = self._metric(net, image.device)
            if metric is None:
                continue
            metric.normalize = True
            found[name] = float(metric(*pair))
            if net == "vgg":
                metric.normalize = False
                found["lpips_vgg_paper"] = float(metric(*pair))
        return found

    def _metric(self, net: str, device: torch.device) -> Any:
        if net not in self._metrics:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            try:
                self._metrics[net] = LearnedPerceptualImagePatchSimilarity(net_type=net).to(device)  # type: ignore[arg-type]
            except (URLError, OSError) as error:
                file = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_BACKBONES[net]
                Console(width=1000).print(
                    f"LPIPS ({net}) is left out: {error}. To have it offline, put torchvision's weights at {file}.",
                    highlight=False,
                )
                self._metrics[net] = None
        return self._metrics[net]


def held_out_metrics(pipeline: Any, perceptual: Perceptual | None = None) -> dict[str, float]:
    """Means over the evaluation photos, each at its full frame: `psnr` (dB), `ssim`, `sharpness` (mean gradient over
    the photo's), `coverage` (mean alpha), what `perceptual` measures (without it `lpips`, where its weights are at
    hand), and their number `views`."""
    rows: list[dict[str, float]] = []
    for outputs, batch in held_out_views(pipeline):
        metrics, _ = pipeline.model.get_image_metrics_and_images(outputs, batch)
        row = {name: float(metrics[name]) for name in ("psnr", "ssim", "lpips") if name in metrics}
        photo = photo_of(pipeline, outputs, batch)
        row["sharpness"] = sharpness(outputs["rgb"]) / max(sharpness(photo), 1e-9)
        if perceptual is not None:
            row |= perceptual(outputs["rgb"], photo)
        rows.append({**row, "coverage": float(outputs["accumulation"].mean())})
    return {name: fmean(row[name] for row in rows) for name in rows[0]} | {"views": len(rows)}


def photo_of(pipeline: Any, outputs: dict[str, Tensor], batch: dict[str, Any]) -> Tensor:
    """The photo that a render is compared with, [H, W, 3] in [0, 1]."""
    return pipeline.model.composite_with_background(
        pipeline.model.get_gt_img(batch["image"]).to(outputs["rgb"].device), outputs["background"]
    )


@torch.no_grad()
def save_pictures(pipeline: Any, folder: Path) -> None:
    """Write the middle evaluation photo and its render as photo.png and render.png."""
    middle = len(pipeline.datamanager.eval_dataset) // 2
    outputs, batch = next(view for i, view in enumerate(held_out_views(pipeline)) if i == middle)
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in (("photo", photo_of(pipeline, outputs, batch)), ("render", outputs["rgb"])):
        Image.fromarray((255 * image.cpu().numpy().clip(0, 1)).round().astype(np.uint8)).save(folder / f"{name}.png")
