"""The photos as a round needs them: with what the splats show at each of them, and the nearest to any view."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.geometry import nearest_views, scene_extent
from genfusion_ns.raster.api import Render
from genfusion_ns.stereo.views import PhotoDepth

SURE = 0.5
"""Confidence from which a photo's measured depth takes the place of the rendered one."""


@dataclass(frozen=True)
class CapturedViews:
    """The photos, as far as a round needs them."""

    cameras: Sequence[Camera]
    """V views."""
    image: Callable[[int], Tensor]
    """Photo number i as [H, W, 3] in [0, 1]."""
    full: Sequence[Camera] | None = None
    """The same views at full frame, where the photos are windows of it; None = the photos are whole."""
    depth: Callable[[int], PhotoDepth] | None = None
    """The measured depth of photo number i, of any size; None = there is none."""


@dataclass(frozen=True)
class SeenView:
    """A photo, and the surface that the splats show there."""

    camera: Camera
    """The view."""
    photo: Tensor
    """[h, w, 3] in [0, 1], of any size."""
    depth: Tensor
    """[H, W, 1] z-depth, measured in the photo where that is sure, else rendered; 0 = nothing there."""
    alpha: Tensor
    """[H, W, 1] rendered opacity in [0, 1]; 1 where the depth is measured."""
    known: Tensor | None = None
    """[h, w, 1] in {0, 1}: the pixels of the photo that are known; None = all."""


def with_measured(depth: Tensor, alpha: Tensor, measured: PhotoDepth) -> tuple[Tensor, Tensor]:
    """Rendered depth and opacity [H, W, 1] of a photo's view, replaced where the photo's own depth is sure: what a
    photo shows is known better from it than from splats that may be misplaced."""
    maps = (values.permute(2, 0, 1)[None].to(depth) for values in (measured.depth, measured.confidence))
    size = depth.shape[:2]
    own, confidence = (F.interpolate(x, size, mode="nearest-exact")[0].permute(1, 2, 0) for x in maps)
    sure = confidence > SURE
    return torch.where(sure, own, depth), torch.where(sure, torch.ones_like(alpha), alpha)


class SeenViews:
    """Captured views with the surface rendered when first asked for; only the last `keep` are held in memory.

    Args:
        render: draws the splats, called without gradients.
        max_side: the surface is rendered at most this wide or high.
    """

    def __init__(
        self, render: Callable[[Camera], Render], captured: CapturedViews, max_side: int, keep: int = 16
    ) -> None:
        self.unit = scene_extent(captured.cameras)
        self._render, self._captured, self._max_side, self._keep = render, captured, max_side, keep
        self._device = captured.cameras[0].w2c.device
        self._cameras = [camera.to("cpu") for camera in captured.cameras]
        self._held: OrderedDict[int, SeenView] = OrderedDict()

    def near(self, camera: Camera, n: int) -> list[SeenView]:
        """The n captured views most like `camera`, the nearest first."""
        return [self[i] for i in nearest_views(camera.to("cpu"), self._cameras, n)]

    def __getitem__(self, i: int) -> SeenView:
        if i in self._held:
            self._held.move_to_end(i)
            return self._held[i]
        small = self._captured.cameras[i].limited(self._max_side)
        shown = self._render(small.to(self._device))
        depth, alpha = shown.depth, shown.alpha
        if self._captured.depth is not None:
            depth, alpha = with_measured(depth, alpha, self._captured.depth(i))
        self._held[i] = SeenView(small.to(self._device), self._captured.image(i), depth, alpha)
        if len(self._held) > self._keep:
            self._held.popitem(last=False)
        return self._held[i]

    def __len__(self) -> int:
        return len(self._cameras)
