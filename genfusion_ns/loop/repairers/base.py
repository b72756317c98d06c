"""The socket for whatever turns flawed renders into better frames, and the repairer that changes nothing."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.errors import UserError


@dataclass(frozen=True)
class RGBDClip:
    """Renders along a camera path: what a repairer is given."""

    rgb: Tensor
    """[T, H, W, 3] in [0, 1], over black."""
    depth: Tensor
    """[T, H, W, 1] z-depth in world units, 0 = nothing there."""
    alpha: Tensor
    """[T, H, W, 1] accumulated opacity in [0, 1]."""
    cameras: Sequence[Camera]
    """T views."""
    warped: Tensor | None = None
    """[T, S, 8, H, W] what the S nearest photos show of each view, see `diffusion.inputs.source_views.warp_sources`;
    None = not looked up."""
    seed: int = 0
    """All that a repairer may draw random numbers from, so that a resumed run repairs alike."""

    def __post_init__(self) -> None:
        shape = (*self.rgb.shape[:3], 1)
        if self.rgb.shape[3:] != (3,) or self.depth.shape != shape or self.alpha.shape != shape:
            raise ValueError(
                "expected rgb [T, H, W, 3], depth and alpha [T, H, W, 1], got "
                f"{list(self.rgb.shape)}, {list(self.depth.shape)} and {list(self.alpha.shape)}."
            )
        if len(self.cameras) != len(self.rgb):
            raise ValueError(f"expected one camera per frame, got {len(self.cameras)} for {len(self.rgb)} frames.")
        if self.warped is not None and len(self.warped) != len(self.rgb):
            raise ValueError(f"expected warped photos of {len(self.rgb)} frames, got {len(self.warped)}.")


@dataclass(frozen=True)
class RepairedClip:
    """Better frames for the same views: what a repairer gives back."""

    rgb: Tensor
    """[T, H, W, 3] in [0, 1]."""
    disparity: Tensor
    """[T, H, W, 1] 1 / depth up to an unknown scale and shift per frame, > 0; 0 = unknown."""
    confidence: Tensor
    """[T, H, W, 1] in [0, 1]; how far the frame should be believed, 0 = not at all."""
    metric: bool = False
    """Whether the disparity is 1 / z-depth in world units, and the colours are the photos' own."""
    gain: Tensor | None = None
    """[T, H, W, 1] in [0, 1]; the share of the render's error that is gone. None = the repairer can't tell; then it is
    estimated from how far a pixel has changed."""


@runtime_checkable
class Repairer(Protocol):
    """Repairs clips of renders. It decides nothing about cameras, schedule or weights."""

    name: str
    """Goes into the provenance of every frame."""
    fingerprint: str
    """Tells two sets of weights of one name apart, such as a hash; empty without weights."""

    def repair(self, clip: RGBDClip, reference: Tensor) -> RepairedClip:
        """Repair one clip; `reference` [h, w, 3] in [0, 1] is the captured photo nearest to it, of any size."""
        ...


@runtime_checkable
class HoldsDevice(Protocol):
    """A repairer that keeps something on the training device, which others need between rounds."""

    def release(self) -> None:
        """Give the device's memory back; the next clip may take it again."""
        ...


@runtime_checkable
class NeedsFiles(Protocol):
    """A repairer that reads files at its first clip, minutes after the start of a run."""

    def check_files(self) -> None:
        """Look for them. Raises UserError where they are missing or broken."""
        ...


class IdentityRepairer:
    """Gives renders back unchanged: the control for every other repairer."""

    name = "identity"
    fingerprint = ""

    def repair(self, clip: RGBDClip, reference: Tensor) -> RepairedClip:
        """See `Repairer.repair`; the reference is not looked at."""
        del reference
        seen = (clip.depth > 0) & clip.depth.isfinite()
        disparity = torch.where(seen, 1.0 / torch.where(seen, clip.depth, 1.0), 0.0)
        return RepairedClip(clip.rgb, disparity, clip.alpha, metric=True)


_FACTORIES: dict[str, str] = {
    "identity": "genfusion_ns.loop.repairers.base:IdentityRepairer",
    "classical": "genfusion_ns.loop.repairers.classical:ClassicalRepairer",
    "diffusion": "genfusion_ns.loop.repairers.diffusion:DiffusionRepairer",
}


def register_repairer(name: str, factory: str) -> None:
    """Make `factory`, written "package.module:callable", known as `name`; it is imported when first asked for."""
    _FACTORIES[name] = factory


def repairer_names() -> list[str]:
    """Names that `create_repairer` knows."""
    return sorted(_FACTORIES)


def create_repairer(name: str, **options: Any) -> Repairer:
    """Build a repairer by its registered name; heavy packages are imported here and nowhere earlier.

    Args:
        options: passed to the factory.

    Raises:
        UserError: unknown name, or its packages are not installed.
    """
    if name not in _FACTORIES:
        raise UserError(f"unknown repairer '{name}'; expected one of: {', '.join(repairer_names())}.")
    module, _, attribute = _FACTORIES[name].partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UserError(
            f"repairer '{name}' cannot be loaded: {error}. Install what is missing, or train with the repairer "
            "'identity', which needs nothing."
        ) from error
    return factory(**options)
