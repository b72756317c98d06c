"""Batches of the fusion network: windows of training fits, photographed differently each time; a function of (seed,
step) alone, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.inputs.source_views import ClipCameras, nearest_sources, warp_sources
from diffusion.train.fits import TrainingFit, read_fit


@dataclass(frozen=True)
class FusionBatch:
    """B clips of T frames with S photos each; see `FusionNetwork.forward`."""

    rgb: Tensor
    """[B, T, 3, H, W]."""
    alpha: Tensor
    """[B, T, 1, H, W]."""
    disparity: Tensor
    """[B, T, 1, H, W]."""
    sources: Tensor
    """[B, T, S, 8, H, W]."""
    target: Tensor
    """[B, T, 3, H, W] the truth in [0, 1]."""
    target_disparity: Tensor
    """[B, T, 1, H, W] in 1 / world units, 0 = unknown."""

    def to(self, device: torch.device | str) -> FusionBatch:
        """The same on another device."""
        return FusionBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Window:
    """What a clip is cut out of."""

    frames: int
    height: int
    width: int


WINDOWS = (Window(6, 96, 128), Window(4, 112, 160), Window(8, 80, 112), Window(5, 128, 96), Window(4, 160, 112))
"""Sizes of the clips by turns; each costs about the same."""


@lru_cache(maxsize=600)
def kept_fit(path: Path) -> TrainingFit:
    """A fit, kept in memory."""
    return read_fit(path)


Warps = tuple[Tensor, Tensor]
_ALL_WARPS: dict[tuple[Path, int, int], Warps] = {}


def kept_warps(path: Path, snapshot: int, photos: int) -> Warps:
    """What the nearest photos show of all frames of a fit, float16 [F, S, 8, H, W], and which they are [F, S]."""
    return _ALL_WARPS.get((path, snapshot, photos)) or recent_warps(path, snapshot, photos)


def found_warps(path: Path, snapshot: int, photos: int, device: torch.device | str = "cpu") -> Warps:
    """As `kept_warps`, computed on a device; the result is on the CPU."""
    fit = kept_fit(path)
    cameras = ClipCameras(fit.cameras.w2c.to(device), fit.cameras.K.to(device))
    depth = fit.render_depth[snapshot].to(device).float()
    sources = [source.to(device) for source in fit.sources[snapshot]]
    order = torch.full((len(depth), photos), -1)
    for i, w2c in enumerate(cameras.w2c):
        near = nearest_sources(w2c, depth[i], sources)[:photos]
        order[i, : len(near)] = torch.tensor(near)
    return warp_sources(cameras, depth, sources, photos).half().cpu(), order


recent_warps = lru_cache(maxsize=240)(found_warps)


def keep_all_warps(paths: Sequence[Path], photos: int, device: torch.device | str) -> None:
    """Find the warps of all fits on a device and keep them for good (20 MB each), so that processes that fork from this
    one share them."""
    for path in paths:
        for snapshot in range(len(kept_fit(path).render_rgb)):
            _ALL_WARPS[path, snapshot, photos] = found_warps(path, snapshot, photos, device)


def make_batch(
    paths: Sequence[Path], capture_share: float, seed: int, step: int, size: int, window: Window, photos: int
) -> FusionBatch:
    """`size` clips of a window's size, of random fits; `capture_share` of them of captures, where there are any."""
    clips = []
    for choice, random in choices(paths, capture_share, seed, step, size):
        place = drawn_window(choice, window, random)
        clips.append(photographed(fit_clip(*place, photos, random), random))
    return FusionBatch(*(torch.stack([getattr(clip, f.name) for clip in clips]) for f in fields(FusionBatch)))


def choices(
    paths: Sequence[Path], capture_share: float, seed: int, step: int, size: int
) -> Iterator[tuple[Sequence[Path], torch.Generator]]:
    """For each of a step's `size` clips the fits that it may come from, captures' or the others', and the random
    numbers that it is drawn with, which all clips of the step take in turn."""
    captured = [path for path in paths if path.name.startswith("capture_")]
    rendered = [path for path in paths if path not in captured]
    random = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**62)
    for _ in range(size):
        real = bool(torch.rand((), generator=random) < capture_share)
        yield (captured if real else rendered) or paths, random


def drawn_window(
    paths: Sequence[Path], window: Window, random: torch.Generator
) -> tuple[Path, int, list[int], tuple[int, int, int, int]]:
    """A random fit, snapshot, frames and box: the first arguments of `fit_clip`."""
    path = drawn_fit(paths, window, random)
    fit = kept_fit(path)
    snapshot = int(torch.randint(len(fit.render_rgb), (), generator=random))
    return path, snapshot, *cut(fit, window, random)


def drawn_fit(paths: Sequence[Path], window: Window, random: torch.Generator) -> Path:
    """A random fit that is at least as large as a window.

    Raises:
        UserError: a hundred fits were smaller.
    """
    for _ in range(100):
        path = paths[int(torch.randint(len(paths), (), generator=random))]
        if all(
            a >= b for a, b in zip(kept_fit(path).target_rgb.shape[1:3], (window.height, window.width), strict=True)
        ):
            return path
    raise UserError(f"no fit of {len(paths)} has {window.width} x {window.height} pixels; make some that have")


def cut(fit: TrainingFit, window: Window, random: torch.Generator) -> tuple[list[int], tuple[int, int, int, int]]:
    """Frames along the path, each or every second, forwards or backwards; and top, left, height, width."""
    count, height, width = fit.target_rgb.shape[:3]
    pace = 1 + int(torch.randint(max(1, min(2, (count - 1) // max(window.frames - 1, 1))), (), generator=random))
    room = count - pace * (window.frames - 1)
    first = int(torch.randint(max(room, 1), (), generator=random))
    frames = [min(first + pace * i, count - 1) for i in range(window.frames)]
    if torch.rand((), generator=random) < 0.5:
        frames.reverse()
    h, w = window.height, window.width
    top = int(torch.randint(height - h + 1, (), generator=random))
    left = int(torch.randint(width - w + 1, (), generator=random))
    return frames, (top, left, h, w)


def fit_clip(
    path: Path,
    snapshot: int,
    frames: Sequence[int],
    box: tuple[int, int, int, int],
    photos: int,
    random: torch.Generator | None = None,
) -> FusionBatch:
    """One clip without the axis of clips; with `random`, photos are left out at times, and exposed differently.

    Args:
        path: of a fit.
        box: top, left, height and width of the window, in pixels.
        photos: S; where there are fewer, the rest shows nothing.
    """
    top, left, height, width = box
    fit, chosen = kept_fit(path), torch.tensor(list(frames))

    def part(values: Tensor) -> Tensor:
        return values[chosen, top : top + height, left : left + width].float().movedim(-1, 1)

    warps, order = kept_warps(path, snapshot, photos)
    sources = warps[chosen, ..., top : top + height, left : left + width].float()
    return FusionBatch(
        rgb=part(fit.render_rgb[snapshot]) / 255,
        alpha=part(fit.render_alpha[snapshot]) / 255,
        disparity=inverted(part(fit.render_depth[snapshot])),
        sources=sources if random is None else exposed(sources, order[chosen], random),
        target=part(fit.target_rgb) / 255,
        target_disparity=inverted(part(fit.target_depth)),
    )


def inverted(depth: Tensor) -> Tensor:
    """1 / depth, 0 where that is unknown."""
    return torch.where(depth > 0, 1 / depth.clamp_min(1e-6), 0.0)


def exposed(sources: Tensor, order: Tensor, random: torch.Generator) -> Tensor:
    """Warped photos [T, S, 8, H, W] of which one is missing at times, seldom all, and each may be a little brighter,
    darker or warmer; `order` [T, S] says which photo each is, -1 = none."""
    count = int(order.max()) + 1
    present = torch.ones(count + 1)
    if count > 1 and torch.rand((), generator=random) < 0.3:
        present[int(torch.randint(count, (), generator=random))] = 0
    if torch.rand((), generator=random) < 0.03:
        present[:] = 0
    strength = 0.03 * torch.randint(2, (), generator=random)
    gain = torch.exp(
        strength * (torch.randn(count + 1, 1, generator=random) + 0.3 * torch.randn(count + 1, 3, generator=random))
    )
    colours = (sources[:, :, :3] * gain[order][..., None, None]).clamp(0, 1)
    return torch.cat([colours, sources[:, :, 3:]], 2) * present[order][..., None, None, None]


def photographed(clip: FusionBatch, random: torch.Generator) -> FusionBatch:
    """The clip mirrored at random, and with other colours."""
    flips, recoloured = recolouring(random)
    colours, rest = clip.sources[..., :3, :, :], clip.sources[..., 3:, :, :]
    photos = torch.cat([recoloured(colours, 1.0) * rest[..., :1, :, :], rest], -3)
    changed = replace(clip, rgb=recoloured(clip.rgb, clip.alpha), target=recoloured(clip.target, 1.0), sources=photos)
    if not flips:
        return changed
    return FusionBatch(*(getattr(changed, field.name).flip(-1) for field in fields(FusionBatch)))


def recolouring(random: torch.Generator) -> tuple[bool, Callable[[Tensor, Tensor | float], Tensor]]:
    """Whether to mirror, and a change of colours [..., 3, H, W] in [0, 1] of an opacity: channels permuted, gamma,
    contrast."""
    flips = bool(torch.rand((), generator=random) < 0.5)
    order = torch.randperm(3, generator=random) if torch.rand((), generator=random) < 0.5 else torch.arange(3)
    gamma, contrast = torch.exp(0.2 * torch.randn((), generator=random)), 0.6 + 0.4 * torch.rand((), generator=random)

    def recoloured(rgb: Tensor, weight: Tensor | float) -> Tensor:
        # a rendering over black is opacity * colour: what is added follows the opacity
        picture = rgb[..., order, :, :].clamp(1e-6, 1)
        return contrast * picture**gamma + 0.3 * (1 - contrast) * weight

    return flips, recoloured
