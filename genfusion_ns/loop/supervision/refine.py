"""From what a repairer gave back to frames that can teach: in the scene's units, weighed by what photos say."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusion.inputs.source_views import ClipCameras, warp_sources
from genfusion_ns.cameras import Camera
from genfusion_ns.loop.captured import SeenViews
from genfusion_ns.loop.repairers.base import RepairedClip, RGBDClip
from genfusion_ns.loop.supervision.agreement import REFUSED, clip_agreements, clip_contradiction, contradiction
from genfusion_ns.loop.supervision.align import align_colour, align_disparity

NOVEL = 0.06
"""Change of colour, mean of the channels, that makes a pixel as good as new."""


@dataclass(frozen=True)
class RefinedFrame:
    """A repaired frame, ready for the pool, with the render that it came from."""

    camera: Camera
    """The view."""
    rgb: Tensor
    """[H, W, 3] in [0, 1]."""
    disparity: Tensor
    """[H, W, 1]; in the scene's units if `metric`, else up to scale and shift; 0 = unknown."""
    confidence: Tensor
    """[H, W, 1] in [0, 1]."""
    agreement: float
    """With the captured views, in [0, 1]."""
    metric: bool
    """Whether `disparity` is 1 / depth."""
    depth: Tensor
    """[H, W, 1] the render's."""
    alpha: Tensor
    """[H, W, 1] the render's."""


@dataclass(frozen=True)
class RefinedClip:
    """The frames of a clip, and what the photos say about it."""

    frames: list[RefinedFrame]
    """All of them, whether refused or not."""
    contradicted: float | None
    """Share of what photos surely show of the clip that it contradicts; None = they show next to nothing of it."""

    @property
    def refused(self) -> bool:
        """Whether that is too much for any of its frames to be believed."""
        return self.contradicted is not None and self.contradicted > REFUSED


def with_photos(rendered: RGBDClip, seen: SeenViews, neighbours: int) -> RGBDClip:
    """The clip with what the captured views nearest to each frame show of it."""
    cameras = ClipCameras(*(torch.stack(x) for x in zip(*((c.w2c, c.K) for c in rendered.cameras), strict=True)))
    near = sorted({i for camera in rendered.cameras for i in seen.nearest(camera, neighbours)})
    sources = [seen[i].source() for i in near]
    return replace(rendered, warped=warp_sources(cameras, rendered.depth, sources, neighbours))


def refine_clip(rendered: RGBDClip, repaired: RepairedClip) -> RefinedClip:
    """One repaired clip, each frame against the photos in `rendered` (see `with_photos`).

    Raises:
        ValueError: `rendered` has none.
    """
    if rendered.warped is None:
        raise ValueError("expected a clip with warped photos, as with_photos makes it.")
    colours = list(repaired.rgb)
    if not repaired.metric:
        views = zip(colours, rendered.rgb, rendered.alpha, rendered.warped, strict=True)
        colours = [_coloured(*view) for view in views]
    found = [contradiction(*triple) for triple in zip(colours, rendered.rgb, rendered.warped, strict=True)]
    agreements = clip_agreements(found)
    frames = [_frame(rendered, repaired, i, colours[i], agreements[i]) for i in range(len(colours))]
    return RefinedClip(frames, clip_contradiction(found))


def novelty(before: Tensor, after: Tensor) -> Tensor:
    """[..., 1] in [0, 1]: how far colours [..., 3] have changed, against `NOVEL`."""
    return ((after - before).abs().mean(-1, keepdim=True) / NOVEL).clamp(0, 1)


def _coloured(rgb: Tensor, render: Tensor, alpha: Tensor, warped: Tensor) -> Tensor:
    """A frame without the repairer's own tint, by the render where photos show the same surface."""
    seen = (warped[:, 3:4] * (warped[:, 4:5].abs() < 0.03)).amax(0).permute(1, 2, 0)
    return align_colour(rgb, render, (alpha > 0.9) * alpha * seen)


def _frame(rendered: RGBDClip, repaired: RepairedClip, i: int, rgb: Tensor, agreement: float) -> RefinedFrame:
    disparity, confidence = repaired.disparity[i], repaired.confidence[i]
    depth, alpha, metric = rendered.depth[i], rendered.alpha[i], repaired.metric
    if not metric:
        disparity, metric = align_disparity(disparity, depth, alpha, confidence)
    # what is no better than the render can only hold the splats back
    gain = novelty(rendered.rgb[i], repaired.rgb[i]) if repaired.gain is None else repaired.gain[i]
    return RefinedFrame(rendered.cameras[i], rgb, disparity, confidence * gain, agreement, metric, depth, alpha)
