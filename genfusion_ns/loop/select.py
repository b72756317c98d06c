"""Which poses of a path are safe, and which are worth repairing: read off small renders of the splats as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from genfusion_ns.cameras import Camera
from genfusion_ns.geometry import positions
from genfusion_ns.loop.captured import CapturedViews, SeenViews
from genfusion_ns.loop.reproject import ANCHORED, reproject
from genfusion_ns.loop.trajectories import partition
from genfusion_ns.raster.api import Render

NEAR_SHARE = 0.2
"""Share of a frame that may lie too near before the camera counts as inside geometry."""
SIDE = 64
"""Longer side of the small renders, in pixels."""


@dataclass(frozen=True)
class Probe:
    """What a small render tells about a pose."""

    need: float
    """Share of the frame, in [0, 1], where no captured view shows a solid surface."""
    clearance: float
    """Depth before which NEAR_SHARE of the frame lies; infinite where that much is empty."""


class Prober:
    """Probes poses against the splats.

    Args:
        clearance: a pose is safe from this share of the captured views' own median clearance on.
        neighbours: captured views that a pose is compared with.
    """

    def __init__(
        self, render: Callable[[Camera], Render], captured: CapturedViews, clearance: float, neighbours: int
    ) -> None:
        self._render, self._neighbours = render, neighbours
        self._seen = SeenViews(render, captured, SIDE, keep=64)
        self._device = captured.cameras[0].w2c.device
        self._centres = positions([camera.to("cpu") for camera in captured.cameras])
        own = [_clearance(self._seen[i].depth, self._seen[i].alpha) for i in range(min(len(self._seen), 16))]
        known = sorted(value for value in own if math.isfinite(value))
        self.limit = clearance * known[len(known) // 2] if known else 0.0

    @torch.no_grad()
    def probe(self, camera: Camera) -> Probe:
        """Need and clearance of one pose."""
        small = camera.limited(SIDE).to(self._device)
        shown = self._render(small)
        views = self._seen.near(small, self._neighbours)
        seen = reproject(small, shown.depth, shown.alpha, views, self._seen.unit).seen
        return Probe(1.0 - float(seen.mean()), _clearance(shown.depth, shown.alpha))

    def safe(self, camera: Camera, tries: int = 3) -> tuple[Camera, Probe] | None:
        """The pose, or one a little behind it, that does not stand in or right before geometry; None if there is none.

        Where a photo was taken there is no geometry, whatever the splats say.
        """
        if float((self._centres - camera.position).norm(dim=-1).min()) < ANCHORED * self._seen.unit:
            return camera, self.probe(camera)
        for _ in range(tries):
            probe = self.probe(camera)
            if probe.clearance >= self.limit:
                return camera, probe
            w2c = camera.w2c.clone()
            w2c[2, 3] += self.limit - probe.clearance  # back along the viewing direction
            camera = replace(camera, w2c=w2c)
        return None


def _clearance(depth: torch.Tensor, alpha: torch.Tensor) -> float:
    solid = torch.where((alpha > 0.5) & (depth > 1e-6), depth, torch.inf).flatten()
    return float(solid.kthvalue(max(1, math.ceil(NEAR_SHARE * len(solid)))).values)


def windows_of_need(needs: Sequence[float], least: float, length: int, overlap: int) -> list[list[int]]:
    """Clips of `length` poses that cover every pose whose need is at least `least`, and few others.

    The fewest (`partition`) if all poses are needed; else each stretch of needed poses gets its own, and a stretch
    shorter than a clip is extended on both sides, so that the repairer always sees a whole clip of the path.
    """
    n = len(needs)
    if n <= length:
        return partition(n, length, overlap) if any(need >= least for need in needs) else []
    windows: list[list[int]] = []
    for start, stop in _stretches([need >= least for need in needs], gap=length // 2):
        short = length - (stop - start)
        if short > 0:
            start = min(max(0, start - short // 2), n - length)
            stop = start + length
        windows += [[start + i for i in window] for window in partition(stop - start, length, overlap)]
    return windows


def _stretches(wanted: Sequence[bool], gap: int) -> list[tuple[int, int]]:
    """[start, stop) of the runs of True, runs joined across gaps of at most `gap`."""
    found: list[tuple[int, int]] = []
    for i, want in enumerate(wanted):
        if want and found and i - found[-1][1] <= gap:
            found[-1] = (found[-1][0], i + 1)
        elif want:
            found.append((i, i + 1))
    return found


def most_needed(gains: Sequence[float], budget: int) -> list[int]:
    """Numbers of the `budget` clips with the largest gains, ascending; all of them where budget is 0."""
    if budget < 1 or budget >= len(gains):
        return list(range(len(gains)))
    return sorted(sorted(range(len(gains)), key=lambda i: (-gains[i], i))[:budget])
