"""What a fit knows of a scene with depth: windows of photos, and tracks as a matcher would find them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from genfusion_ns.cameras import Camera, project, unproject
from genfusion_ns.data.colmap import Tracks
from genfusion_ns.data.triangulate import Triangulated
from genfusion_ns.data.views import FloatArray, TrainView

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class KnownView:
    """A training view reduced to the window that encloses its known pixels."""

    view: TrainView
    """Photo and camera of the window."""
    mask: Masks
    """[h, w] known pixels of the window."""
    depth: NDArray[np.float32]
    """[h, w] z-depth, 0 where unknown, inf where nothing is."""


def known_view(
    camera: Camera, rgb: NDArray[np.uint8], mask: Masks, depth: NDArray[np.float32], name: str, index: int
) -> KnownView:
    """Cut a photo [H, W, 3] to the bounding box of its known pixels; hidden ones are black."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    part = (slice(top, bottom), slice(left, right))
    window = camera.window(int(left), int(top), int(right - left), int(bottom - top))
    image = np.ascontiguousarray(rgb[part] * mask[part][..., None])
    return KnownView(TrainView(window, image, name, index), mask[part], depth[part])


def surface_tracks(views: Sequence[KnownView], rng: np.random.Generator) -> Triangulated:
    """Textured surface points that two views see: what a feature matcher would find, with its noise; none at all in
    every fifth scene, as where photos have nothing in common."""
    wanted = int(np.exp(rng.uniform(np.log(40), np.log(1500)))) if rng.random() < 0.8 else 0
    share = max(8, 3 * wanted // len(views))
    parts = []
    for view in views if wanted else ():
        weight = _texture(view)
        total = weight.sum()
        if total > 0:
            count = min(share, int((weight > 0).sum()))
            pick = rng.choice(weight.size, count, replace=False, p=weight.ravel() / total)
            depth = torch.from_numpy(view.depth.astype(np.float64))[..., None]
            parts.append(unproject(depth, view.view.camera).reshape(-1, 3).numpy()[pick])
    points = np.concatenate(parts) if parts else np.zeros((0, 3))
    points = points[rng.permutation(np.flatnonzero(_seen_by(points, views).sum(0) >= 2))[:wanted]]
    centre = np.stack([view.view.camera.position.numpy() for view in views]).mean(0)
    distance = np.linalg.norm(points - centre, axis=1, keepdims=True)
    points = points + rng.standard_normal(points.shape) * distance * rng.uniform(0.001, 0.006)
    image, point = np.nonzero(_seen_by(points, views))
    rays = np.zeros((len(point), 2))
    for v, view in enumerate(views):
        mine = image == v
        local = points[point[mine]] @ view.view.camera.w2c[:3, :3].numpy().T + view.view.camera.w2c[:3, 3].numpy()
        rays[mine] = local[:, :2] / local[:, 2:]
    return Triangulated(points, Tracks(point, image, rays), np.arange(len(points)))


def _on_mask(xyz: FloatArray, view: KnownView) -> tuple[Masks, FloatArray, NDArray[np.int64]]:
    """Which points [P, 3] fall on known pixels of a view; their depths [P] and pixels [P, 2] (column, row)."""
    pixels, depth = project(torch.from_numpy(xyz), view.view.camera)
    place = np.floor(pixels.numpy()).astype(np.int64)
    height, width = view.mask.shape
    inside = (depth.numpy() > 0) & ((place >= 0) & (place < [width, height])).all(1)
    place = np.clip(place, 0, [width - 1, height - 1])
    return inside & view.mask[place[:, 1], place[:, 0]], depth.numpy(), place


def _texture(view: KnownView) -> FloatArray:
    """[h, w] how likely a feature is found at a pixel: its contrast, 0 where hidden or without depth."""
    grey = view.view.image.astype(np.float64).mean(-1)
    slope = np.hypot(*np.gradient(grey)) if min(grey.shape) > 1 else np.zeros_like(grey)
    return np.where(view.mask & (view.depth > 0) & np.isfinite(view.depth), np.maximum(slope - 2.0, 0.02), 0.0)


def _seen_by(points: FloatArray, views: Sequence[KnownView]) -> Masks:
    """[V, P] whether a point lies on a known pixel of a view and on the surface that is seen there, or next to it where
    depth is known in single pixels only."""
    seen = np.zeros((len(views), len(points)), bool)
    for row, view in zip(seen, views, strict=True):
        on, depth, place = _on_mask(points, view)
        height, width = view.mask.shape
        reach = 0 if (view.depth > 0).mean() > 0.5 else 1
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                y, x = (place[:, 1] + dy).clip(0, height - 1), (place[:, 0] + dx).clip(0, width - 1)
                row |= on & (np.abs(view.depth[y, x] - depth) < 0.03 * depth)
    return seen
