"""The depth of all photos of a capture: found once, kept in the run's folder, read back by a resumed run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from genfusion_ns.data.triangulate import Triangulated
from genfusion_ns.data.views import TrainView
from genfusion_ns.files import write_atomic
from genfusion_ns.stereo.posed_photos import DepthEstimator, PhotoDepth, PosedPhoto, Progress, posed_photos, reduced

FILE_NAME = "photo_depth.safetensors"


@dataclass(frozen=True)
class CaptureDepth:
    """The photos as the estimator saw them, and their depths."""

    photos: list[PosedPhoto]
    """At most `side` pixels wide or high."""
    depths: list[PhotoDepth]
    """One per photo, of its size."""


def capture_depth(
    views: Sequence[TrainView],
    tracks: Triangulated,
    estimator: DepthEstimator,
    side: int,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> CaptureDepth:
    """Depth of the training views, from `folder` where a run before kept that of the very same photos.

    Args:
        views, tracks: the training views, and what they alone triangulate; no other photo is looked at.
        side: photos are reduced to so many pixels.
        folder: where the depth is kept; None = nowhere.
    """
    photos = [reduced(photo, side) for photo in posed_photos(views, tracks)]
    key = _key(photos, estimator)
    path = None if folder is None else folder / FILE_NAME
    kept = None if path is None else read_depths(path, key)
    if kept is not None:
        return CaptureDepth(photos, kept)
    depths = estimator.estimate(photos, progress)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"{i}.{name}": value for i, depth in enumerate(depths) for name, value in vars(depth).items()}
        write_atomic(path, save({name: value.contiguous() for name, value in tensors.items()}, {"key": key}))
    return CaptureDepth(photos, depths)


def read_depths(path: Path, key: str) -> list[PhotoDepth] | None:
    """Depths that were kept under `key`; None where the file is missing, broken, or of other photos or weights."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            count = len({name.partition(".")[0] for name in file.keys()})  # noqa: SIM118 (not a dict)
            names = ("depth", "confidence", "spread")
            return [PhotoDepth(*(file.get_tensor(f"{i}.{name}") for name in names)) for i in range(count)]
    except (OSError, SafetensorError, ValueError):
        return None


def _key(photos: Sequence[PosedPhoto], estimator: DepthEstimator) -> str:
    """A hash of all that the depths depend on."""
    digest = hashlib.sha256(f"{estimator.name} {estimator.fingerprint}".encode())
    for photo in photos:
        for part in (photo.rgb, photo.camera.w2c, photo.camera.K, photo.track_pixels, photo.track_depths):
            digest.update(part.contiguous().numpy().tobytes())
        digest.update(torch.tensor(photo.depth_bounds).numpy().tobytes())
    return digest.hexdigest()
