"""A repairer for tests only: it knows the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from genfusion_ns.cameras import Camera
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.repairers.base import IdentityRepairer, RepairedClip, RGBDClip
from genfusion_ns.raster.api import Render
from genfusion_ns.seeding import generator


class OracleRepairer:
    """Ground truth plus Gaussian noise of deviation `sigma`; every `wrong_every`-th clip shows `wrong` instead."""

    name = "oracle"

    def __init__(
        self,
        truth: Callable[[Camera], Render],
        sigma: float = 0.02,
        wrong: Callable[[Camera], Render] | None = None,
        wrong_every: int = 2,
    ) -> None:
        self.truth, self.sigma, self.wrong, self.wrong_every = truth, sigma, wrong, wrong_every
        self.fingerprint = f"sigma{sigma}"
        self.clips = 0

    def repair(self, clip: RGBDClip, reference) -> RepairedClip:
        del reference
        lies = self.wrong is not None and self.clips % self.wrong_every == 0
        self.clips += 1
        views = [(self.wrong if lies else self.truth)(camera) for camera in clip.cameras]
        random = generator(clip.seed, "oracle")
        rgb = torch.stack([view.color for view in views])
        rgb = (rgb + self.sigma * torch.randn(rgb.shape, generator=random).to(rgb)).clamp(0, 1)
        depth = torch.stack([view.depth for view in views])
        disparity = torch.where(depth > 0, 1 / depth.clamp_min(1e-6), 0.0)
        return RepairedClip(rgb, disparity, torch.ones_like(disparity), gain=torch.ones_like(disparity))


class EchoRepairer(IdentityRepairer):
    """Gives renders back and claims that they are all better now."""

    def repair(self, clip: RGBDClip, reference) -> RepairedClip:
        same = super().repair(clip, reference)
        return replace(same, gain=torch.ones_like(same.disparity))


SMALL = LoopConfig(frames=10, clip_length=4, pool=100)


class Recorder(EchoRepairer):
    """Identity that remembers what it was given."""

    name = "recorder"
    fingerprint = "f00"

    def __init__(self) -> None:
        self.seen = []

    def repair(self, clip, reference):
        self.seen.append((clip, reference))
        return super().repair(clip, reference)
