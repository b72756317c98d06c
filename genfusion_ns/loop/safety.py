"""Which poses of a path are safe: read off small renders of the splats as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from genfusion_ns.cameras import Camera
from genfusion_ns.geometry import positions, scene_extent
from genfusion_ns.loop.captured import CapturedViews
from genfusion_ns.raster.api import Render

CLEARANCE = 0.3
"""Share of the captured views' usual distance to surfaces that a generated view keeps at least."""
NEAR_SHARE = 0.2
"""Share of a frame that may lie too near before the camera counts as inside geometry."""
SIDE = 64
"""Longer side of the small renders, in pixels."""
ANCHORED = 1e-3
"""A camera this near to a captured one, in scene extents, stands where that stood."""
MOST_VIEWS = 16
"""So many captured views tell the usual clearance."""


class Prober:
    """Probes poses against the splats: safe from CLEARANCE of the captured views' own median clearance on."""

    def __init__(self, render: Callable[[Camera], Render], captured: CapturedViews) -> None:
        self._render = render
        self._device = captured.cameras[0].w2c.device
        self._unit = scene_extent(captured.cameras)
        self._centres = positions([camera.to("cpu") for camera in captured.cameras])
        own = [self.clearance(camera) for camera in captured.cameras[:MOST_VIEWS]]
        known = sorted(value for value in own if math.isfinite(value))
        self.limit = CLEARANCE * known[len(known) // 2] if known else 0.0

    @torch.no_grad()
    def clearance(self, camera: Camera) -> float:
        """Depth before which NEAR_SHARE of the frame lies; infinite where that much is empty."""
        shown = self._render(camera.limited(SIDE).to(self._device))
        return _clearance(shown.depth, shown.alpha)

    def safe(self, camera: Camera, tries: int = 3) -> Camera | None:
        """The pose, or one a little behind it, that does not stand in or right before geometry; None if there is none.

        Where a photo was taken there is no geometry, whatever the splats say.
        """
        if float((self._centres - camera.position).norm(dim=-1).min()) < ANCHORED * self._unit:
            return camera
        for _ in range(tries):
            found = self.clearance(camera)
            if found >= self.limit:
                return camera
            w2c = camera.w2c.clone()
            w2c[2, 3] += self.limit - found  # back along the viewing direction
            camera = replace(camera, w2c=w2c)
        return None


def _clearance(depth: torch.Tensor, alpha: torch.Tensor) -> float:
    solid = torch.where((alpha > 0.5) & (depth > 1e-6), depth, torch.inf).flatten()
    return float(solid.kthvalue(max(1, math.ceil(NEAR_SHARE * len(solid)))).values)
