"""Posed photos as the depth estimators take them, the depth that they give back, and the estimators' Protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.data.frustum import depth_range
from genfusion_ns.data.triangulate import Triangulated
from genfusion_ns.data.views import TrainView, to_pixels, view_arrays


@dataclass(frozen=True)
class PosedPhoto:
    """One photo, its camera, and what is measured in it."""

    camera: Camera
    """float32 pinhole camera of `rgb`."""
    rgb: Tensor
    """[H, W, 3] in [0, 1]."""
    track_pixels: Tensor
    """[n, 2] where tracks are seen (pixel centres at half-integers)."""
    track_depths: Tensor
    """[n] their z-depths in world units."""
    depth_bounds: tuple[float, float]
    """Nearest and farthest depth that the cameras alone suggest, in world units."""


@dataclass(frozen=True)
class PhotoDepth:
    """What an estimator says of one photo."""

    depth: Tensor
    """[H, W, 1] z-depth in world units, > 0."""
    confidence: Tensor
    """[H, W, 1] in [0, 1]: the probability that the depth is within 5 % of the truth."""
    spread: Tensor
    """[H, W, 1] expected relative error of the depth, > 0."""

    def __post_init__(self) -> None:
        if not self.depth.shape == self.confidence.shape == self.spread.shape or self.depth.shape[2:] != (1,):
            raise ValueError(f"expected three maps [H, W, 1], got {[tuple(x.shape) for x in self.maps()]}.")

    def maps(self) -> tuple[Tensor, Tensor, Tensor]:
        """Depth, confidence and spread."""
        return self.depth, self.confidence, self.spread


Progress = Callable[[int], None]
"""Called with the number of photos that are done."""


class DepthEstimator(Protocol):
    """Finds the depth of every photo of a posed capture."""

    name: str
    """For logs."""
    fingerprint: str
    """Tells two sets of weights apart."""

    def estimate(self, photos: Sequence[PosedPhoto], progress: Progress | None = None) -> list[PhotoDepth]:
        """Depth for each of `photos`, in their order and at their sizes, from these photos alone."""
        ...


def posed_photos(views: Sequence[TrainView], found: Triangulated) -> list[PosedPhoto]:
    """Training views as estimators take them, with the tracks that each of them observes."""
    cameras = view_arrays(views)
    bounds = depth_range(cameras.w2c)
    photos = []
    for v, view in enumerate(views):
        mine = found.tracks.image == v
        xyz = found.xyz[found.tracks.point[mine]]
        depths = xyz @ cameras.w2c[v, 2, :3] + cameras.w2c[v, 2, 3]
        pixels = to_pixels(found.tracks.ray[mine], cameras.K[v])
        photos.append(
            PosedPhoto(
                view.camera.to("cpu", torch.float32),
                torch.from_numpy(view.image).float() / 255,
                torch.from_numpy(pixels).float(),
                torch.from_numpy(depths).float(),
                (float(bounds[v, 0]), float(bounds[v, 1])),
            )
        )
    return photos


def reduced(photo: PosedPhoto, max_side: int) -> PosedPhoto:
    """The photo, camera and tracks at most `max_side` pixels wide or high."""
    camera = photo.camera.limited(max_side)
    if (camera.width, camera.height) == (photo.camera.width, photo.camera.height):
        return photo
    small = F.interpolate(photo.rgb.permute(2, 0, 1)[None], (camera.height, camera.width), mode="area")
    scale = photo.track_pixels.new_tensor([camera.width / photo.camera.width, camera.height / photo.camera.height])
    return replace(photo, camera=camera, rgb=small[0].permute(1, 2, 0), track_pixels=photo.track_pixels * scale)
