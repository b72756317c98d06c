"""Batches of the denoiser: what the fusion network makes of training fits, and the truth; functions of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from diffusion.fuse import drawn_share, padded
from diffusion.inputs.preprocess import given_range_disparity, percentile_disparity
from diffusion.inputs.source_views import PHOTOS
from diffusion.models.fusion import FusionNetwork
from diffusion.train.fit_clips import (
    Window,
    choices,
    drawn_window,
    fit_clip,
    inverted,
    kept_fit,
    recent_warps,
    recolouring,
)

LEAST_DRAWN = 0.03
"""Share of a clip that should be the denoiser's to draw; a few clips are looked at to find one."""
LOOKS = 6


@dataclass(frozen=True)
class DenoiserBatch:
    """B clips of T frames, in network space."""

    fused: Tensor
    """[B, 4, T, H, W] fused frames in [-1, 1], disparity relative to the clip's."""
    target: Tensor
    """[B, 4, T, H, W] the truth; where its disparity is unknown, the fused one."""
    certainty: Tensor
    """[B, 1, T, H, W] in [0, 1]."""
    photos: list[Tensor]
    """B photos [3, h, w] in [-1, 1], of any size."""

    def to(self, device: torch.device | str) -> DenoiserBatch:
        """The same on another device."""
        maps = (getattr(self, field.name).to(device) for field in fields(self)[:3])
        return DenoiserBatch(*maps, photos=[photo.to(device) for photo in self.photos])


class FusedFits:
    """What a frozen fusion network, on any device, makes of fits; kept on the CPU in float16."""

    def __init__(self, fusion: FusionNetwork, kept: int = 400) -> None:
        self.fusion = fusion.eval().requires_grad_(False)
        self.get = lru_cache(maxsize=kept)(self._fuse)

    def fuse_all(self, paths: Sequence[Path]) -> None:
        """Fuse every clip now and keep them all, so that processes that fork from this one need no GPU."""
        self.get = lru_cache(maxsize=None)(self._fuse)
        for path in paths:
            for snapshot in range(len(kept_fit(path).render_rgb)):
                self.get(path, snapshot)

    @torch.no_grad()
    def _fuse(self, path: Path, snapshot: int) -> tuple[Tensor, Tensor, Tensor]:
        """Fused colour [F, 3, H, W], disparity and certainty [F, 1, H, W] of all frames of a fit."""
        fit = kept_fit(path)
        frames, height, width = fit.target_rgb.shape[:3]
        clip = fit_clip(path, snapshot, range(frames), (0, 0, height, width), PHOTOS)
        maps = (padded(x[None], self.fusion.multiple) for x in (clip.rgb, clip.alpha, clip.disparity, clip.sources))
        fused = self.fusion(*(x.to(self.fusion.device) for x in maps))
        recent_warps.cache_clear()  # the fused frames are kept in their place
        parts = fused.rgb.clamp(0, 1), fused.disparity, fused.certainty
        rgb, disparity, certainty = (x[0, ..., :height, :width].half().cpu() for x in parts)
        return rgb, disparity, certainty

    def clip(
        self, path: Path, snapshot: int, frames: Sequence[int], box: tuple[int, int, int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A window of a fit: fused colour, disparity, certainty, true colour and disparity, each [T, c, h, w]."""
        top, left, height, width = box
        fit, chosen = kept_fit(path), torch.tensor(list(frames))
        truth = fit.target_rgb.movedim(-1, 1).float() / 255, inverted(fit.target_depth.movedim(-1, 1).float())
        maps = *self.get(path, snapshot), *truth
        rgb, disparity, certainty, target, target_disparity = (
            x[chosen, ..., top : top + height, left : left + width].float() for x in maps
        )
        return rgb, disparity, certainty, target, target_disparity


def make_batch(
    fits: FusedFits, paths: Sequence[Path], capture_share: float, seed: int, step: int, size: int, window: Window
) -> DenoiserBatch:
    """`size` clips of a window's size of random fits, `capture_share` of them of captures, where there are any."""
    clips = [_clip(fits, choice, window, random) for choice, random in choices(paths, capture_share, seed, step, size)]
    maps = [torch.stack([getattr(clip, f.name)[0] for clip in clips]) for f in fields(DenoiserBatch)[:3]]
    return DenoiserBatch(*maps, photos=[clip.photos[0] for clip in clips])


def _clip(fits: FusedFits, paths: Sequence[Path], window: Window, random: torch.Generator) -> DenoiserBatch:
    for _ in range(LOOKS):
        path, snapshot, frames, box = drawn_window(paths, window, random)
        maps = fits.clip(path, snapshot, frames, box)
        if float(drawn_share(maps[2]).mean()) >= LEAST_DRAWN:
            break
    photos = kept_fit(path).sources[snapshot]
    photo = photos[int(torch.randint(len(photos), (), generator=random))].rgb
    return network_clip(maps, photo.movedim(-1, 0), random)


def network_clip(maps: tuple[Tensor, ...], photo: Tensor, random: torch.Generator | None = None) -> DenoiserBatch:
    """What `FusedFits.clip` gives as a batch of one, as the pipeline's networks see it; with `random` in other colours
    and mirrored at times."""
    rgb, disparity, certainty, target, target_disparity = maps
    if random is not None:
        flips, recoloured = recolouring(random)
        rgb, target, photo = (recoloured(x, 1.0) for x in (rgb, target, photo))
        if flips:
            rgb, disparity, certainty = rgb.flip(-1), disparity.flip(-1), certainty.flip(-1)
            target, target_disparity, photo = target.flip(-1), target_disparity.flip(-1), photo.flip(-1)
    depth = (1 / disparity.clamp_min(1e-6)).movedim(1, -1)[None]
    near = percentile_disparity(depth)
    truth = torch.where(target_disparity > 0, target_disparity, disparity).movedim(1, -1)[None]
    true = given_range_disparity(1 / truth.clamp_min(1e-6), float(near.low), float(near.high))
    fused, clean = (
        torch.cat([2 * colour.movedim(0, 1)[None] - 1, inverse.values.movedim(-1, 1)], 1)
        for colour, inverse in ((rgb, near), (target, true))
    )
    return DenoiserBatch(fused, clean, certainty.movedim(0, 1)[None], [2 * photo - 1])
