"""The photos as a round needs them: with what the splats show at each of them, and the nearest to any view."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.inputs.source_views import SourceView
from genfusion_ns.cameras import Camera
from genfusion_ns.geometry import nearest_views, scene_extent
from genfusion_ns.raster.api import Render
from genfusion_ns.stereo.posed_photos import PhotoDepth

NEIGHBOURS = 4
"""So many photos each generated frame is repaired from and compared with; more cost time and seldom see the same."""
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
    """A photo, and the surface that it shows."""

    camera: Camera
    """The view, of the size of the maps."""
    photo: Tensor
    """[H, W, 3] in [0, 1]."""
    depth: Tensor
    """[H, W, 1] z-depth, measured in the photo where that is sure, else rendered; 0 = nothing there."""
    alpha: Tensor
    """[H, W, 1] rendered opacity in [0, 1]; 1 where the depth is measured."""
    confidence: Tensor
    """[H, W, 1] in (0, 1]: how sure the depth is; where none is measured, half of the opacity."""

    def source(self) -> SourceView:
        """As networks and warps take it."""
        return SourceView(self.photo, self.depth, self.confidence, self.camera.w2c, self.camera.K)


def with_measured(depth: Tensor, alpha: Tensor, measured: PhotoDepth) -> tuple[Tensor, Tensor, Tensor]:
    """Rendered depth and opacity [H, W, 1] of a photo's view, replaced where the photo's own depth is sure, and that
    depth's confidence: what a photo shows is known better from it than from splats that may be misplaced."""
    maps = (values.permute(2, 0, 1)[None].to(depth) for values in (measured.depth, measured.confidence))
    size = depth.shape[:2]
    own, confidence = (F.interpolate(x, size, mode="nearest-exact")[0].permute(1, 2, 0) for x in maps)
    sure = confidence > SURE
    return torch.where(sure, own, depth), torch.where(sure, torch.ones_like(alpha), alpha), confidence


def reduced_photo(photo: Tensor, height: int, width: int) -> Tensor:
    """A photo [h, w, 3] at another size, by areas."""
    if photo.shape[:2] == (height, width):
        return photo
    return F.interpolate(photo.permute(2, 0, 1)[None], (height, width), mode="area")[0].permute(1, 2, 0)


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

    def nearest(self, camera: Camera, n: int) -> list[int]:
        """Numbers of the n captured views most like `camera`, the nearest first."""
        return nearest_views(camera.to("cpu"), self._cameras, n)

    def near(self, camera: Camera, n: int) -> list[SeenView]:
        """These views."""
        return [self[i] for i in self.nearest(camera, n)]

    def __getitem__(self, i: int) -> SeenView:
        if i in self._held:
            self._held.move_to_end(i)
            return self._held[i]
        small = self._captured.cameras[i].limited(self._max_side)
        shown = self._render(small.to(self._device))
        depth, alpha, confidence = shown.depth, shown.alpha, 0.5 * shown.alpha
        if self._captured.depth is not None:
            depth, alpha, confidence = with_measured(depth, alpha, self._captured.depth(i))
        photo = reduced_photo(self._captured.image(i), small.height, small.width).to(depth)
        # 1/255: a photo shows its colours however unsure its depth is, and training stored no less
        self._held[i] = SeenView(small.to(self._device), photo, depth, alpha, confidence.clamp(1 / 255, 1))
        if len(self._held) > self._keep:
            self._held.popitem(last=False)
        return self._held[i]

    def __len__(self) -> int:
        return len(self._cameras)
