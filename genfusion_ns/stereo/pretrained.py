"""Pretrained depth networks, for users who name one: any monocular model of transformers, and Depth Anything 3.

Nothing is downloaded unless a hub id is named. A monocular disparity has no scale of its own: it is brought to the
scene by a robust scale and shift per photo, against tracks and the stereo network's depth, and takes that network's
place where it is surer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from genfusion_ns.errors import UserError
from genfusion_ns.gaussians.losses import fit_scale_shift
from genfusion_ns.stereo.posed_photos import DepthEstimator, PhotoDepth, PosedPhoto, Progress

TRACK_WEIGHT = 20.0
"""What a track counts in the fit against a pixel of full confidence; there are few of them, and they are measured."""
REFERENCE = 0.3
"""Confidence from which a measured pixel takes part in the fit."""
FEW = 20
"""With fewer references all pixels take part."""

Disparities = Callable[[Sequence[PosedPhoto]], Iterable[Tensor]]
"""Relative disparity [H, W] of each photo."""


class FittedEstimator:
    """A pretrained network's shapes, fitted to the scene by another estimator."""

    def __init__(self, name: str, network: Disparities, base: DepthEstimator) -> None:
        self.name, self.fingerprint = name, base.fingerprint
        self._network, self._base = network, base

    @torch.no_grad()
    def estimate(self, photos: Sequence[PosedPhoto], progress: Progress | None = None) -> list[PhotoDepth]:
        """See `DepthEstimator.estimate`."""
        found = []
        for photo, measured, disparity in zip(photos, self._base.estimate(photos), self._network(photos), strict=True):
            found.append(merged(measured, fitted(disparity, photo, measured)))
            if progress is not None:
                progress(len(found))
        return found


def fitted(disparity: Tensor, photo: PosedPhoto, measured: PhotoDepth) -> PhotoDepth:
    """Relative disparity [H, W] as depth in world units, with one confidence per photo from how well it fits."""
    height, width = disparity.shape
    sure = measured.confidence.flatten() > REFERENCE
    if int(sure.sum()) + len(photo.track_depths) < FEW:
        sure = torch.ones_like(sure)
    source = [disparity.flatten()[sure]]
    target = [1.0 / measured.depth.flatten()[sure]]
    weight = [measured.confidence.flatten()[sure] + 1e-3]
    if len(photo.track_depths):
        x, y = photo.track_pixels.long().unbind(-1)
        source.append(disparity[y.clamp(0, height - 1), x.clamp(0, width - 1)])
        target.append(1.0 / photo.track_depths)
        weight.append(torch.full_like(photo.track_depths, TRACK_WEIGHT))
    values, wanted, weights = (torch.cat(parts) for parts in (source, target, weight))
    a, b = fit_scale_shift(values, wanted, weights)
    least = 0.05 * float(wanted.median())
    aligned = (a * disparity + b).clamp_min(least)
    residual = ((a * values + b).clamp_min(least) / wanted - 1).abs()
    order = residual.argsort()
    halfway = int(torch.searchsorted(weights[order].cumsum(0), 0.5 * weights.sum()).clamp_max(len(order) - 1))
    spread = max(float(residual[order[halfway]]) / math.log(2), 0.01)  # a Laplace distribution's, from its median
    ones = torch.ones_like(aligned)[..., None]
    return PhotoDepth(1.0 / aligned[..., None], ones * (1 - math.exp(-0.05 / spread)), ones * spread)


def merged(measured: PhotoDepth, shape: PhotoDepth) -> PhotoDepth:
    """The surer of two depths, blended where both are about as sure."""
    own, other = measured.confidence.square() + 1e-6, shape.confidence.square() + 1e-6
    share = own / (own + other)
    depth = torch.exp(torch.lerp(shape.depth.log(), measured.depth.log(), share))
    pick = share > 0.5
    return PhotoDepth(
        depth,
        torch.where(pick, measured.confidence, shape.confidence),
        torch.where(pick, measured.spread, shape.spread),
    )


def transformers_network(source: str, device: torch.device | str) -> Disparities:
    """A monocular depth model of the transformers library by hub id or folder. Raises UserError: it cannot be had or
    loaded."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    try:
        processor = AutoImageProcessor.from_pretrained(source)
        model: Any = AutoModelForDepthEstimation.from_pretrained(source).to(device).eval()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"the depth model {source!r} cannot be loaded ({str(error).splitlines()[0]}). Give a folder with its "
            "config.json and weights, or download one first: huggingface-cli download "
            "depth-anything/Depth-Anything-V2-Small-hf"
        ) from error
    kind = getattr(model.config, "depth_estimation_type", "relative")
    metric = kind == "metric" or model.config.model_type in ("zoedepth", "depth_pro")

    def disparities(photos: Sequence[PosedPhoto]) -> Iterator[Tensor]:
        for photo in photos:
            predicted = model(**processor(images=_bytes(photo), return_tensors="pt").to(device)).predicted_depth.float()
            if metric:
                predicted = 1.0 / predicted.clamp_min(1e-3)
            size = photo.rgb.shape[:2]
            yield F.interpolate(predicted[:, None], size, mode="bicubic", align_corners=False)[0, 0].cpu()

    return disparities


def depth_anything_3(source: str, device: torch.device | str) -> Disparities:
    """Depth Anything 3 by hub id or folder. Raises UserError: the package or the weights cannot be had."""
    try:
        from depth_anything_3.api import DepthAnything3  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"depth-anything-3 is not installed ({error}). Run: pip install depth-anything-3") from error
    try:
        return partial(posed_disparities, DepthAnything3.from_pretrained(source).to(device).eval())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"Depth Anything 3 cannot be loaded from {source!r} ({str(error).splitlines()[0]}). Give a folder with its "
            "weights, or download some first: huggingface-cli download depth-anything/DA3-BASE"
        ) from error


def posed_disparities(model: Any, photos: Sequence[PosedPhoto]) -> Iterator[Tensor]:
    """What Depth Anything 3 says of the photos, given the cameras, in one pass over all of them."""
    predicted = model.inference(
        [_bytes(photo) for photo in photos],
        extrinsics=torch.stack([photo.camera.w2c for photo in photos]).numpy(),
        intrinsics=torch.stack([photo.camera.K for photo in photos]).numpy(),
    )
    for photo, depth in zip(photos, predicted.depth, strict=True):
        disparity = 1.0 / torch.as_tensor(depth).float()[None, None].clamp_min(1e-6)
        yield F.interpolate(disparity, photo.rgb.shape[:2], mode="bilinear")[0, 0]


def _bytes(photo: PosedPhoto) -> NDArray[np.uint8]:
    return (photo.rgb * 255).round().to(torch.uint8).numpy()
