"""Initial points of a fit: only what its training views and their known pixels can tell.

As in training: some measured points (for a capture its tracks, triangulated from the training views alone; for a
procedural scene textured surface points that two training views see, with noise), completed by samples in the views'
frusta at the depths of measured neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from genfusion_ns.cameras import Camera, project, unproject
from genfusion_ns.data.colmap import Tracks, find_model, read_model
from genfusion_ns.data.frustum import complete_with_frustum_samples
from genfusion_ns.data.matching import match_views
from genfusion_ns.data.points import track_colours, training_tracks
from genfusion_ns.data.triangulate import triangulate_tracks
from genfusion_ns.data.views import FloatArray, TrainView, to_pixels, view_arrays

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class KnownView:
    """A training view reduced to the window that encloses its known pixels."""

    view: TrainView
    """Photo and camera of the window."""
    mask: Masks
    """[h, w] known pixels of the window."""
    depth: NDArray[np.float32] | None
    """[h, w] exact z-depth, None where unknown."""


def known_view(
    camera: Camera, rgb: NDArray[np.uint8], mask: Masks, depth: NDArray[np.float32] | None, name: str, index: int
) -> KnownView:
    """Cut a photo [H, W, 3] to the bounding box of its known pixels; hidden ones are black."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    part = (slice(top, bottom), slice(left, right))
    window = camera.window(int(left), int(top), int(right - left), int(bottom - top))
    image = np.ascontiguousarray(rgb[part] * mask[part][..., None])
    return KnownView(TrainView(window, image, name, index), mask[part], None if depth is None else depth[part])


def starting_points(
    views: Sequence[KnownView], target: int, seed: int, capture: Path | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """xyz [P, 3] and rgb [P, 3] in [0, 1]: measured points, completed to about `target`.

    Args:
        capture: folder of a capture, for its COLMAP model; None = the views' exact depths are used.
    """
    if capture is not None:
        xyz, rgb = _tracked(views, capture)
    else:
        xyz, rgb = _surface(views, seed)
    sampled_xyz, sampled_rgb = _samples(views, xyz, max(target - len(xyz), 0), seed)
    points, colours = np.concatenate([xyz, sampled_xyz]), np.concatenate([rgb, sampled_rgb])
    return torch.from_numpy(points).float(), torch.from_numpy(np.clip(colours / 255.0, 0, 1)).float()


def _samples(views: Sequence[KnownView], xyz: FloatArray, count: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """About `count` samples in the frusta, none through a hidden pixel."""
    known = float(np.mean([view.mask.mean() for view in views]))
    asked = round(count / max(known, 0.05))
    found = complete_with_frustum_samples([view.view for view in views], xyz, None, asked, seed)
    # equally many per view, in order, as `complete_with_frustum_samples` says
    bounds = np.linspace(0, asked, len(views) + 1).round().astype(int)
    keep = np.zeros(asked, bool)
    for view, first, last in zip(views, bounds[:-1], bounds[1:], strict=True):
        keep[first:last] = _on_mask(found.xyz[first:last], view)[0]
    return found.xyz[keep], found.rgb[keep]


def _on_mask(xyz: FloatArray, view: KnownView) -> tuple[Masks, FloatArray, NDArray[np.int64]]:
    """Which points [P, 3] fall on known pixels of a view; their depths [P] and pixels [P, 2] (column, row)."""
    pixels, depth = project(torch.from_numpy(xyz), view.view.camera)
    place = np.floor(pixels.numpy()).astype(np.int64)
    height, width = view.mask.shape
    inside = (depth.numpy() > 0) & ((place >= 0) & (place < [width, height])).all(1)
    place = np.clip(place, 0, [width - 1, height - 1])
    return inside & view.mask[place[:, 1], place[:, 0]], depth.numpy(), place


def _surface(views: Sequence[KnownView], seed: int) -> tuple[FloatArray, FloatArray]:
    """Textured surface points that two views see: what a feature matcher would find, with its noise."""
    rng = np.random.default_rng([seed, 0x7073])
    wanted = int(np.exp(rng.uniform(np.log(60), np.log(1500))))
    share = max(8, 3 * wanted // len(views))
    xyz, rgb = [], []
    for view in views:
        weight = _texture(view)
        total = weight.sum()
        if total <= 0:
            continue
        count = min(share, int((weight > 0).sum()))
        pick = rng.choice(weight.size, count, replace=False, p=weight.ravel() / total)
        assert view.depth is not None
        depth = torch.from_numpy(view.depth.astype(np.float64))[..., None]
        xyz.append(unproject(depth, view.view.camera).reshape(-1, 3).numpy()[pick])
        rgb.append(view.view.image.reshape(-1, 3)[pick].astype(np.float64))
    if not xyz:
        return np.zeros((0, 3)), np.zeros((0, 3))
    points, colours = np.concatenate(xyz), np.concatenate(rgb)
    keep = np.flatnonzero(_times_seen(points, views) >= 2)
    keep = rng.permutation(keep)[:wanted]
    points, colours = points[keep], colours[keep]
    if len(points):
        centre = np.stack([view.view.camera.position.numpy() for view in views]).mean(0)
        distance = np.linalg.norm(points - centre, axis=1, keepdims=True)
        points = points + rng.standard_normal(points.shape) * distance * rng.uniform(0.001, 0.006)
    return points, colours


def _texture(view: KnownView) -> FloatArray:
    """[h, w] how likely a feature is found at a pixel: its contrast, 0 where hidden or without depth."""
    assert view.depth is not None
    grey = view.view.image.astype(np.float64).mean(-1)
    slope = np.hypot(*np.gradient(grey)) if min(grey.shape) > 1 else np.zeros_like(grey)
    return np.where(view.mask & (view.depth > 0), np.maximum(slope - 2.0, 0.02), 0.0)


def _times_seen(points: FloatArray, views: Sequence[KnownView]) -> NDArray[np.int64]:
    """[P] in how many views a point lies on a known pixel and on the surface that is seen there."""
    seen = np.zeros(len(points), np.int64)
    for view in views:
        on, depth, place = _on_mask(points, view)
        assert view.depth is not None
        surface = view.depth[place[:, 1], place[:, 0]]
        seen += on & (np.abs(surface - depth) < 0.03 * depth)
    return seen


def _tracked(views: Sequence[KnownView], capture: Path) -> tuple[FloatArray, FloatArray]:
    """A capture's tracks on known pixels, triangulated from the training views alone."""
    plain = [view.view for view in views]
    model = find_model(capture)
    tracks = match_views(plain) if model is None else training_tracks(read_model(model), plain)[0]
    cameras = view_arrays(plain)
    pixels = np.floor(to_pixels(tracks.ray, cameras.K[tracks.image])).astype(np.int64)
    on = np.zeros(len(pixels), bool)
    for number, view in enumerate(views):
        mine = np.flatnonzero(tracks.image == number)
        height, width = view.mask.shape
        place = np.clip(pixels[mine], 0, [width - 1, height - 1])
        on[mine] = view.mask[place[:, 1], place[:, 0]]
    kept: Tracks = tracks.where(on)
    if not len(kept.point):
        return np.zeros((0, 3)), np.zeros((0, 3))
    found = triangulate_tracks(kept, cameras.w2c)
    return found.xyz, track_colours(found, plain)
