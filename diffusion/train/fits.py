"""Sparse reconstructions on disk: what a 2DGS fit to few photos renders, what it should render, and the photos.

One safetensors file per fit, its provenance as JSON in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusion.errors import UserError
from diffusion.files import replacing
from diffusion.inputs.source_views import ClipCameras, SourceView

FARTHEST = 3e4
"""Depths are stored up to this, in float16."""
_FRAMES = ("render_rgb", "render_depth", "render_alpha", "target_rgb", "target_depth", "w2c", "K")
_SOURCE = ("rgb", "confidence", "w2c", "K", "depth")


@dataclass(frozen=True)
class TrainingFit:
    """A fit after S numbers of steps, seen from F views of H x W pixels, and its V photos."""

    render_rgb: Tensor
    """uint8 [S, F, H, W, 3], over black."""
    render_depth: Tensor
    """float16 [S, F, H, W, 1] expected z-depth in world units, 0 = nothing there."""
    render_alpha: Tensor
    """uint8 [S, F, H, W, 1], 255 = opaque."""
    target_rgb: Tensor
    """uint8 [F, H, W, 3] the truth."""
    target_depth: Tensor
    """float16 [F, H, W, 1] the true z-depth, 0 = unknown."""
    cameras: ClipCameras
    """The F views."""
    sources: Sequence[Sequence[SourceView]]
    """S times V photos: their depth is the photo's own where that is sure, else what the fit renders."""
    provenance: dict[str, Any]
    """Scene, seed, variant, steps, and `train`, the numbers of the views that trained whole (plain JSON values)."""


def write_fit(path: Path, fit: TrainingFit) -> None:
    """Write a fit as a whole or not at all."""
    tensors = {name: getattr(fit, name) for name in _FRAMES[:5]}
    tensors |= {"w2c": fit.cameras.w2c.double(), "K": fit.cameras.K.double()}
    for v, source in enumerate(fit.sources[0]):
        tensors[f"source{v}.rgb"] = to_bytes(source.rgb)
        tensors[f"source{v}.confidence"] = to_bytes(source.confidence)
        tensors[f"source{v}.w2c"], tensors[f"source{v}.K"] = source.w2c.double(), source.K.double()
        tensors[f"source{v}.depth"] = torch.stack([to_half(views[v].depth) for views in fit.sources])
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, {"provenance": json.dumps(fit.provenance)})


def read_fit(path: Path) -> TrainingFit:
    """Inverse of `write_fit`.

    Raises:
        UserError: the file is missing, broken, or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            provenance = json.loads((file.metadata() or {})["provenance"])
            frames = {name: file.get_tensor(name) for name in _FRAMES}
            count = sum(key.endswith(".rgb") for key in file.keys())  # noqa: SIM118 (not a dict)
            parts = [{name: file.get_tensor(f"source{v}.{name}") for name in _SOURCE} for v in range(count)]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no readable fit ({error}); delete it and run genfusion-make-fits again") from error
    cameras = ClipCameras(frames.pop("w2c").float(), frames.pop("K").float())
    sources = [[_source(part, s) for part in parts] for s in range(len(frames["render_rgb"]))]
    return TrainingFit(**frames, cameras=cameras, sources=sources, provenance=provenance)


def _source(part: dict[str, Tensor], s: int) -> SourceView:
    rgb, confidence = (part[name].float() / 255 for name in ("rgb", "confidence"))
    return SourceView(rgb, part["depth"][s].float(), confidence, part["w2c"].float(), part["K"].float())


def to_bytes(values: Tensor) -> Tensor:
    """Values in [0, 1] as uint8."""
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def to_half(depth: Tensor) -> Tensor:
    """Depth as float16: 0 where it is not finite or not positive."""
    return torch.where(depth.isfinite(), depth, 0.0).clamp(0, FARTHEST).half()
