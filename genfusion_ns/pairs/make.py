"""One unit of work: a scene, what is hidden of it, a fit to the rest, and the shard of clips that follows."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from diffusion.train.shards import Pair, ShardError, read_shard, write_shard
from genfusion_ns.cameras import Camera
from genfusion_ns.files import write_atomic
from genfusion_ns.geometry import nearest_view
from genfusion_ns.loop.round import render_clip
from genfusion_ns.pairs.fit import Fit, FitConfig, FitView, capped, snapshots
from genfusion_ns.pairs.footage import Footage, capture_footage, procedural_footage
from genfusion_ns.pairs.points import KnownView, known_view, starting_points
from genfusion_ns.pairs.variants import Variant
from genfusion_ns.pairs.warped import warped_photos
from genfusion_ns.raster import choose_rasterizer
from genfusion_ns.seeding import seed_of

VERSION = 4
"""Goes into the provenance; a change of the recipe raises it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What all units of a data set share."""

    width: int = 160
    height: int = 96
    frames: int = 32
    """Frames of a path."""
    clip_length: int = 16
    """Frames of a clip."""
    splats: int = 7000
    """Most splats of a fit."""
    points: int = 4000
    """Splats that a fit begins with."""
    seed: int = 0
    split: str = "train"
    threads: int = 1
    """Threads of a fit; processes share the machine otherwise."""


@dataclass(frozen=True)
class Unit:
    """A scene and a variant of it."""

    family: str
    """A procedural family, or `capture`."""
    scene_seed: int
    variant: Variant
    steps: tuple[int, ...]
    """After how many steps the fit is rendered."""
    capture: str = ""
    """Folder of the capture, empty for procedural scenes."""

    @property
    def scene(self) -> str:
        """Name of the scene, unique within a data set."""
        stem = Path(self.capture).name if self.capture else self.family
        return f"{stem}-{self.scene_seed:07d}"

    @property
    def name(self) -> str:
        """Name of the unit and stem of its shard."""
        return f"{self.scene}-{self.variant.name}"


def make_unit(unit: Unit, recipe: Recipe, folder: Path) -> tuple[str, bool]:
    """Write the unit's shard into `folder` unless a whole one is there already.

    Returns:
        The unit's name and whether anything was done.
    """
    path = folder / f"{unit.name}.safetensors"
    if path.exists():
        try:
            read_shard(path)
            return unit.name, False
        except ShardError as error:
            log.warning("made anew: %s", error)
    torch.set_num_threads(recipe.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    footage = cached_footage(unit, recipe, folder / "footage")
    write_shard(path, make_pairs(unit, recipe, footage))
    return unit.name, True


def make_pairs(unit: Unit, recipe: Recipe, footage: Footage) -> list[Pair]:
    """Fit the variant, and cut what it shows at each of the unit's steps into clips."""
    frames = len(footage.cameras)
    masks = unit.variant.masks(frames, recipe.width, recipe.height)
    train = unit.variant.training_frames(frames)
    views = [
        known_view(
            footage.cameras[i],
            footage.rgb[i],
            masks[i],
            None if footage.depth is None else footage.depth[i],
            footage.names[i],
            i,
        )
        for i in train
    ]
    seed = seed_of(recipe.seed, unit.name)
    capture = Path(unit.capture) if unit.capture else None
    xyz, rgb = starting_points(views, recipe.points, seed % 2**32, capture)
    config = capped(FitConfig(seed=seed % 2**32), recipe.splats)
    fit = Fit([_fit_view(view) for view in views], xyz, rgb, choose_rasterizer("auto"), config)
    cameras = [camera.to(dtype=torch.float32) for camera in footage.cameras]
    pairs: list[Pair] = []
    for step in snapshots(fit, unit.steps):
        clip = render_clip(fit.render, cameras)
        warped = warped_photos(clip, torch.from_numpy(footage.rgb).float() / 255, masks, train)
        provenance = _provenance(unit, recipe, step, len(train), len(fit.params["means"]))
        for first in range(0, frames - recipe.clip_length + 1, recipe.clip_length):
            part = slice(first, first + recipe.clip_length)
            reference = _reference(footage, masks, train, cameras, first + recipe.clip_length // 2)
            pairs.append(
                Pair(
                    render_rgb=_bytes(clip.rgb[part]),
                    render_depth=_half(clip.depth[part]),
                    render_alpha=_bytes(clip.alpha[part]),
                    target_rgb=torch.from_numpy(footage.rgb[part].copy()),
                    target_depth=_target_depth(footage, part),
                    reference=reference,
                    warped=_bytes(warped[part]),
                    provenance={**provenance, "first": first, "captured": _captured(unit, train, part)},
                )
            )
    return pairs


def cached_footage(unit: Unit, recipe: Recipe, folder: Path) -> Footage:
    """The scene's photos, kept in `folder` so that its other variants need not take them again."""
    path = folder / f"{unit.scene}-{recipe.frames}x{recipe.width}x{recipe.height}.safetensors"
    try:
        return _unpack(load_file(path))
    except (OSError, SafetensorError, KeyError):
        pass  # not there yet, or half of an older one
    if unit.capture:
        footage = capture_footage(Path(unit.capture), unit.scene_seed, recipe.frames, recipe.width, recipe.height)
    else:
        footage = procedural_footage(unit.family, unit.scene_seed, recipe.frames, recipe.width, recipe.height)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(_pack(footage)))
    return footage


def _pack(footage: Footage) -> dict[str, np.ndarray]:
    packed = {
        "rgb": footage.rgb,
        "w2c": np.stack([camera.w2c.numpy() for camera in footage.cameras]),
        "K": np.stack([camera.K.numpy() for camera in footage.cameras]),
        "names": np.frombuffer("\n".join(footage.names).encode(), np.uint8),
    }
    return packed if footage.depth is None else {**packed, "depth": footage.depth}


def _unpack(packed: dict[str, np.ndarray]) -> Footage:
    height, width = packed["rgb"].shape[1:3]
    cameras = [
        Camera(torch.from_numpy(w2c.copy()), torch.from_numpy(K.copy()), width, height)
        for w2c, K in zip(packed["w2c"], packed["K"], strict=True)
    ]
    return Footage(cameras, packed["rgb"], packed.get("depth"), packed["names"].tobytes().decode().split("\n"))


def _fit_view(known: KnownView) -> FitView:
    mask = None if known.mask.all() else torch.from_numpy(known.mask.astype(np.float32))[..., None]
    rgb = torch.from_numpy(known.view.image.astype(np.float32) / 255.0)
    return FitView(known.view.camera.to(dtype=torch.float32), rgb, mask)


def _reference(
    footage: Footage, masks: np.ndarray, train: list[int], cameras: list[Camera], middle: int
) -> torch.Tensor:
    """[1, H, W, 3] the training photo nearest to frame `middle`, hidden pixels black."""
    nearest = train[nearest_view(cameras[middle], [cameras[i] for i in train])]
    return torch.from_numpy(footage.rgb[nearest] * masks[nearest][..., None])[None]


def _captured(unit: Unit, train: list[int], part: slice) -> list[int]:
    """Numbers, within the clip, of frames that trained whole: no novel views, which scores leave out."""
    return [i - part.start for i in train if part.start <= i < part.stop] if unit.variant.kind == "sparse" else []


def _target_depth(footage: Footage, part: slice) -> torch.Tensor:
    if footage.depth is None:
        return torch.zeros(*footage.rgb[part].shape[:3], 1, dtype=torch.float16)
    return _half(torch.from_numpy(footage.depth[part].copy())[..., None])


def _provenance(unit: Unit, recipe: Recipe, step: int, views: int, splats: int) -> dict[str, Any]:
    return {
        "scene": unit.scene,
        "family": unit.family,
        "seed": unit.scene_seed,
        "variant": unit.variant.name,
        "step": step,
        "split": recipe.split,
        "source": Path(unit.capture).name if unit.capture else "procedural",
        "version": VERSION,
        "recipe_seed": recipe.seed,
        "train_views": views,
        "splats": splats,
    }


def _bytes(values: torch.Tensor) -> torch.Tensor:
    return (values.clamp(0, 1) * 255.0).round().to(torch.uint8)


def _half(depth: torch.Tensor) -> torch.Tensor:
    return depth.nan_to_num(0.0, 0.0, 0.0).clamp(0.0, 60_000.0).to(torch.float16)
