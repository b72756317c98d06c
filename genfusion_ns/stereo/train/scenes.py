"""Training scenes as files: views with depth, from the procedural families and from captures.

A file holds `rgb` [F, H, W, 3] uint8, `depth` [F, H, W] float16 (z in world units, 0 = unknown, inf = nothing is
there), `w2c` [F, 4, 4] and `K` [F, 3, 3] float64; cameras lie within +-1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file
from scipy.ndimage import map_coordinates

from genfusion_ns.cameras import Camera, pixel_rays
from genfusion_ns.data.sequences import within_unit
from genfusion_ns.synthetic import textures as tx
from genfusion_ns.synthetic.families import make_family_scene
from genfusion_ns.synthetic.looks import muted, shade
from genfusion_ns.synthetic.render import Scene, Studio
from genfusion_ns.synthetic.staging import Staged

Array = NDArray[np.floating]
Backdrop = Callable[[Array, Array], tuple[NDArray[np.uint8], Array]]
"""Camera centre [3] and rays [N, 3] that hit no thing (z = 1 in the camera) to colours [N, 3] and z-depths [N]."""

SIZES = ((224, 160), (160, 224), (240, 136), (192, 192), (216, 144), (144, 208))
FRAMES = 12
FAMILIES = (
    "rooms",
    "tables",
    "facades",
    "clutter",
    "terrains",
    "rooms",
    "tables",
    "clutter",
    "tree",
    "points",
    "menger",
)
"""Families in turn; those with many surfaces at many depths more often."""


def write_procedural(path: Path, seed: int, photographs: Sequence[NDArray[np.uint8]]) -> None:
    """Render one scene; `photographs` [H, W, 3] lend their texture to half of the things."""
    rng = np.random.default_rng([seed, 0x7374])
    staged = make_family_scene(FAMILIES[seed % len(FAMILIES)], seed)
    staged = replace(staged, scene=with_photo_textures(staged.scene, photographs, rng))
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    cameras = Staged.cameras(staged, FRAMES, width, height)
    studio = Studio(staged.scene)
    backdrop = _sky(rng, staged.scene) if rng.random() < 0.4 else _walls(rng, cameras, photographs)
    rgb, depth = [], []
    for camera in cameras:
        photo = studio.photo(camera, 3)
        missed = photo.depth <= 0
        picture, far = photo.rgb.copy(), photo.depth.copy()
        if missed.any():
            directions = (pixel_rays(camera) @ camera.w2c[:3, :3]).numpy()[missed]
            picture[missed], far[missed] = backdrop(camera.position.numpy(), directions)
        rgb.append(picture)
        depth.append(far)
    unit, scale = within_unit(cameras)
    write_views(path, np.stack(rgb), np.stack(depth) * scale, unit)


def with_photo_textures(scene: Scene, photographs: Sequence[NDArray[np.uint8]], rng: np.random.Generator) -> Scene:
    """The scene with cut-outs of photographs on about half of its things."""
    if not photographs:
        return scene
    things = []
    for thing in scene.things:
        if rng.random() < 0.5:
            size = float(np.linalg.norm(np.ptp(thing.mesh.vertices, axis=0)))
            thing = replace(thing, texture=photo_texture(photographs[int(rng.integers(len(photographs)))], size, rng))
        things.append(thing)
    return replace(scene, things=tuple(things))


def photo_texture(photograph: NDArray[np.uint8], size: float, rng: np.random.Generator) -> tx.Texture:
    """A cut-out of a photograph, mirrored at its edges and projected along an oblique direction, so that no face of a
    box is seen edge-on; it spans a fifth to twice the thing's `size` (metres)."""
    height, width = photograph.shape[:2]
    side = int(rng.uniform(0.15, 0.9) * min(height, width))
    y, x = int(rng.integers(height - side)), int(rng.integers(width - side))
    linear = (photograph[y : y + side, x : x + side] / 255.0) ** 2.2 * rng.uniform(0.6, 1.3)
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0][:2]
    scale = side / (size * float(np.exp(rng.uniform(np.log(0.2), np.log(2.0)))))
    channels = [np.ascontiguousarray(linear[..., c]) for c in range(3)]

    def texture(points: Array) -> Array:
        place = (points @ axes.T).T * scale + side / 2
        samples = [map_coordinates(channel, place, order=1, mode="mirror", prefilter=False) for channel in channels]
        return np.clip(np.stack(samples, -1), 0.0, 1.0)

    return texture


def _sky(rng: np.random.Generator, scene: Scene) -> Backdrop:
    """Nothing there, seen brighter towards the horizon, with clouds."""
    base = np.asarray(scene.sky) * rng.uniform(0.7, 1.5)
    seed, cloudy = int(rng.integers(2**31)), float(rng.choice([0.0, 0.3, 0.9]))

    def backdrop(origin: Array, rays: Array) -> tuple[NDArray[np.uint8], Array]:
        unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        clouds = np.clip(4 * (tx.fractal_noise(unit, seed, 4.0, 5) - 0.5), 0, 1) * cloudy
        haze = np.exp(-4 * np.clip(unit[:, 2], 0, 1)) * 0.4
        white = np.clip(clouds + haze, 0, 1)[:, None]
        return _shown(base * (1 - white) + 0.95 * white), np.full(len(rays), np.inf)

    return backdrop


def _walls(rng: np.random.Generator, cameras: Sequence[Camera], photographs: Sequence[NDArray[np.uint8]]) -> Backdrop:
    """The inside of a box around cameras and scene, each wall of one tone, most of them nearly plain: what captures
    indoors show where there is no texture."""
    centres = torch.stack([camera.position for camera in cameras]).numpy()
    axes = torch.stack([camera.w2c[2, :3] for camera in cameras]).numpy()
    reach = float(np.linalg.norm(centres - centres.mean(0), axis=1).max()) + 1.0
    focus = (centres + reach * axes).mean(0)
    half = np.maximum(np.abs(centres - focus).max(0), reach) * rng.uniform(1.15, 2.5, 3)
    looks = []
    for _ in range(6):
        tone = muted(rng, 0.1, 0.9)
        plain = tx.mottled(shade(tone, rng.uniform(0.7, 1.0)), tone, int(rng.integers(2**31)), 1.5 / reach, octaves=2)
        papered = bool(photographs) and rng.random() < 0.25
        picture = photographs[int(rng.integers(len(photographs)))] if papered else None
        looks.append(plain if picture is None else photo_texture(picture, 2 * reach, rng))
    light = rng.uniform(0.4, 1.1, 6)

    def backdrop(origin: Array, rays: Array) -> tuple[NDArray[np.uint8], Array]:
        towards = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
        exits = (np.sign(towards) * half - (origin - focus)) / towards
        axis = exits.argmin(1)
        distance = exits[np.arange(len(rays)), axis]
        wall = axis * 2 + (towards[np.arange(len(rays)), axis] > 0)
        points = origin + rays * distance[:, None]
        colour = np.zeros_like(points)
        for index in np.unique(wall):
            mine = wall == index
            colour[mine] = looks[index](points[mine]) * light[index]
        return _shown(colour), distance

    return backdrop


def _shown(linear: Array) -> NDArray[np.uint8]:
    return np.round(255 * np.clip(linear, 0, 1) ** (1 / 2.2)).astype(np.uint8)


def capture_photographs(folders: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """All photos of captures, as material for textures."""
    files = [file for folder in folders for file in sorted((folder / "images").glob("*.jpg"))]
    photos = []
    for file in files:
        with Image.open(file) as image:
            photos.append(np.asarray(image.convert("RGB")))
    return photos


def write_views(path: Path, rgb: NDArray, depth: NDArray, cameras: Sequence[Camera]) -> None:
    """Write a training scene as a whole or not at all; see the module's docstring."""
    tensors = {
        "rgb": np.ascontiguousarray(rgb, np.uint8),
        "depth": np.ascontiguousarray(depth, np.float16),
        "w2c": torch.stack([camera.w2c for camera in cameras]).numpy(),
        "K": torch.stack([camera.K for camera in cameras]).numpy(),
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, partial)
    partial.replace(path)
