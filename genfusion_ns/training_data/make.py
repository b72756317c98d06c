"""A training fit: a scene with depth, what is hidden of it, a 2DGS fit to the rest, and what that renders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from diffusion.inputs.source_views import ClipCameras, SourceView
from diffusion.train.fits import TrainingFit, to_bytes, to_half, write_fit
from genfusion_ns.cameras import Camera
from genfusion_ns.data.sequences import neighbour_path
from genfusion_ns.data.triangulate import Triangulated
from genfusion_ns.errors import UserError
from genfusion_ns.gaussians.fit import Fit, FitConfig, FitView, capped, snapshots
from genfusion_ns.loop.captured import with_measured
from genfusion_ns.raster import choose_rasterizer
from genfusion_ns.raster.api import Render
from genfusion_ns.seeding import seed_of
from genfusion_ns.stereo.posed_photos import DepthEstimator, PhotoDepth, posed_photos
from genfusion_ns.stereo.surfels import first_splats
from genfusion_ns.training_data.tracks import KnownView, known_view, surface_tracks
from genfusion_ns.training_data.variants import Variant, draw_variant

VERSION = 5
"""Goes into the provenance; a change of the recipe raises it."""


@dataclass(frozen=True)
class Recipe:
    """What all fits of a data set share."""

    side: int = 160
    """Longer side of renders and photos in pixels; every eighth fit has twice as many."""
    frames: int = 16
    """Views of a capture that a fit is seen from."""
    points: int = 4000
    """Splats that a fit of a small side begins with."""
    splats: int = 7000
    """Most splats of a fit of a small side."""
    seed: int = 0
    """Another seed gives other fits of the same scenes."""


@dataclass(frozen=True)
class SceneViews:
    """Views of a scene along a path."""

    cameras: list[Camera]
    """F float64 cameras."""
    rgb: NDArray[np.uint8]
    """[F, H, W, 3]."""
    depth: NDArray[np.float32]
    """[F, H, W] z-depth; 0 = unknown, inf = nothing is there."""


def fit_path(folder: Path, scene: Path, number: int) -> Path:
    """Where fit `number` of a scene is kept."""
    return folder / f"{scene.stem}_fit{number:03d}.safetensors"


def write_scene_fit(scene: Path, number: int, recipe: Recipe, folder: Path, estimator: DepthEstimator) -> Path:
    """Make fit `number` of a scene file (see `stereo.train.scenes`) unless it is there."""
    path = fit_path(folder, scene, number)
    if not path.exists():
        write_fit(path, make_fit(scene, number, recipe, estimator))
    return path


def make_fit(scene: Path, number: int, recipe: Recipe, estimator: DepthEstimator) -> TrainingFit:
    """One fit; a function of its arguments."""
    seed = seed_of(recipe.seed, scene.stem, number)
    rng = np.random.default_rng(seed)
    side = recipe.side * (2 if rng.random() < 0.125 else 1)
    views = scene_views(scene, side, recipe.frames, rng)
    frames, (height, width) = len(views.cameras), views.rgb.shape[1:3]
    variant = draw_variant(rng)
    masks, train = variant.masks(frames, width, height), variant.training_frames(frames)
    known = [known_view(views.cameras[i], views.rgb[i], masks[i], views.depth[i], f"{i:05d}", i) for i in train]
    tracks = surface_tracks(known, rng)
    photos = posed_photos([view.view for view in known], tracks)
    depths = [_masked(depth, view) for depth, view in zip(estimator.estimate(photos), known, strict=True)]
    grown = (side / recipe.side) ** 1.5
    fit = start_fit(known, tracks, photos, depths, round(recipe.points * grown), round(recipe.splats * grown), rng)
    steps = fit_steps(fit.config.run_length, rng)
    cameras = [camera.to(dtype=torch.float32) for camera in views.cameras]
    renders, sources = [], []
    for _ in snapshots(fit, steps):
        renders.append([fit.render(camera) for camera in cameras])
        sources.append([_source(fit, view, depth) for view, depth in zip(known, depths, strict=True)])
    return TrainingFit(
        render_rgb=_stacked(renders, lambda render: to_bytes(render.color)),
        render_depth=_stacked(renders, lambda render: to_half(render.depth)),
        render_alpha=_stacked(renders, lambda render: to_bytes(render.alpha)),
        target_rgb=torch.from_numpy(views.rgb),
        target_depth=to_half(torch.from_numpy(views.depth)[..., None]),
        cameras=ClipCameras(torch.stack([c.w2c for c in cameras]), torch.stack([c.K for c in cameras])),
        sources=sources,
        provenance=_provenance(scene, number, variant, train, steps, fit),
    )


def scene_views(scene: Path, side: int, frames: int, rng: np.random.Generator) -> SceneViews:
    """The views of a scene file; of a capture `frames` along a path of neighbours; brought to `side` pixels."""
    try:
        content = load_file(scene)
        height, width = content["rgb"].shape[1:3]
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"{scene} is no readable scene ({error}); make it again: genfusion-train-stereo scenes"
        ) from error
    cameras = [
        Camera(torch.from_numpy(w2c), torch.from_numpy(K), width, height)
        for w2c, K in zip(content["w2c"], content["K"], strict=True)
    ]
    chosen = list(range(len(cameras)))
    if len(cameras) > frames:
        chosen = neighbour_path(cameras, frames, rng)
    small = cameras[0].limited(side)
    size = (small.width, small.height)
    rgb = [cv2.resize(content["rgb"][i], size, interpolation=cv2.INTER_AREA) for i in chosen]
    depth = [_resized_depth(content["depth"][i].astype(np.float32), size) for i in chosen]
    return SceneViews([cameras[i].limited(side) for i in chosen], np.stack(rgb), np.stack(depth))


def start_fit(
    known: Sequence[KnownView],
    tracks: Triangulated,
    photos: Sequence,
    depths: Sequence[PhotoDepth],
    points: int,
    splats: int,
    rng: np.random.Generator,
) -> Fit:
    """A fit that begins as the plugin's training does."""
    seed = int(rng.integers(2**31))
    start = first_splats([view.view for view in known], photos, depths, tracks, points, seed)
    length = int(rng.choice([500, 700, 1400], p=[0.4, 0.4, 0.2]))
    config = capped(FitConfig(seed=seed, run_length=length), splats)
    return Fit(
        [_fit_view(view) for view in known], start.xyz, start.rgb, choose_rasterizer("auto"), config, start.normals
    )


def fit_steps(run_length: int, rng: np.random.Generator) -> list[int]:
    """When a fit is looked at: as the loop's rounds do, between a seventh and five sevenths of a run."""
    early, late = rng.uniform(0.1, 0.3), rng.uniform(0.35, 0.75)
    return [round(run_length * early), round(run_length * late)]


def _masked(depth: PhotoDepth, view: KnownView) -> PhotoDepth:
    """No confidence in hidden pixels."""
    return replace(depth, confidence=depth.confidence * torch.from_numpy(view.mask.astype(np.float32))[..., None])


@torch.no_grad()
def _source(fit: Fit, view: KnownView, depth: PhotoDepth) -> SourceView:
    camera = view.view.camera.to(dtype=torch.float32)
    render = fit.render(camera)
    known = torch.from_numpy(view.mask.astype(np.float32))[..., None]
    surface, _, _ = with_measured(render.depth, render.alpha, depth)
    # a pixel is warped wherever it is known, however unsure its depth: 1/255 is the least that is stored
    confidence = known * depth.confidence.clamp_min(1 / 255)
    return SourceView(torch.from_numpy(view.view.image).float() / 255, surface, confidence, camera.w2c, camera.K)


def _fit_view(known: KnownView) -> FitView:
    mask = None if known.mask.all() else torch.from_numpy(known.mask.astype(np.float32))[..., None]
    rgb = torch.from_numpy(known.view.image.astype(np.float32) / 255.0)
    return FitView(known.view.camera.to(dtype=torch.float32), rgb, mask)


def _resized_depth(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT), np.float32)


def _stacked(renders: list[list[Render]], part) -> torch.Tensor:
    return torch.stack([torch.stack([part(render) for render in row]) for row in renders])


def _provenance(scene: Path, number: int, variant: Variant, train: list[int], steps: list[int], fit: Fit) -> dict:
    whole = train if variant.kind == "sparse" else []
    facts = {"scene": scene.stem, "number": number, "variant": variant.name, "train": whole, "steps": steps}
    return {**facts, "photos": len(train), "splats": len(fit.params["means"]), "version": VERSION}
