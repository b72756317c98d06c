"""From what a repairer gave back to frames that can teach: aligned, with captured pixels in, and with confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.loop.align import align_colour, align_disparity
from genfusion_ns.loop.captured import SeenViews
from genfusion_ns.loop.confidence import (
    NEWS,
    REFUSED,
    clip_agreements,
    clip_confidence,
    clip_contradiction,
    contradiction,
    novelty,
    render_confidence,
)
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.paste import paste
from genfusion_ns.loop.plane_sweep import Match, plane_sweep
from genfusion_ns.loop.repair import RepairedClip, RGBDClip
from genfusion_ns.loop.reproject import Reprojection, reproject


@dataclass(frozen=True)
class RefinedFrame:
    """A repaired frame, ready for the pool, with the render that it came from."""

    camera: Camera
    """The view."""
    rgb: Tensor
    """[H, W, 3] in [0, 1]."""
    disparity: Tensor
    """[H, W, 1]; in the scene's units if `aligned`, else up to scale and shift; 0 = unknown."""
    confidence: Tensor
    """[H, W, 1] in [0, 1]."""
    agreement: float
    """With the captured views, in [0, 1]."""
    aligned: bool
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
    refused: bool
    """Whether that is too much for any of its frames to be believed."""


def with_photos(rendered: RGBDClip, seen: SeenViews, neighbours: int) -> RGBDClip:
    """The clip with what the captured views nearest to each frame show of it; the geometry that photos are warped by is
    that of the renders, which the repairer has no hand in."""
    photos = [
        reproject(camera, rendered.depth[i], rendered.alpha[i], seen.near(camera, neighbours), seen.unit)
        for i, camera in enumerate(rendered.cameras)
    ]

    def matches() -> list[Match]:
        views = zip(rendered.cameras, rendered.rgb, rendered.depth, strict=True)
        return [plane_sweep(camera, rgb, depth, seen.near(camera, neighbours)) for camera, rgb, depth in views]

    return replace(rendered, photos=photos, matches=matches)


def refine_clip(rendered: RGBDClip, repaired: RepairedClip, config: LoopConfig) -> RefinedClip:
    """One repaired clip, each frame against the photos in `rendered` (see `with_photos`).

    Raises:
        ValueError: `rendered` has none.
    """
    if rendered.photos is None:
        raise ValueError("expected a clip with photos, as with_photos makes it.")
    photos = rendered.photos
    colours = list(repaired.rgb)
    if config.align:
        sure = [(alpha > 0.9) * alpha * p.seen for alpha, p in zip(rendered.alpha, photos, strict=True)]
        colours = [align_colour(*triple) for triple in zip(colours, rendered.rgb, sure, strict=True)]
    found = [contradiction(*triple) for triple in zip(colours, rendered.rgb, photos, strict=True)]
    agreements = clip_agreements(found) if config.weigh else [1.0] * len(found)
    frames = [_refine(rendered, repaired, i, colours[i], photos[i], agreements[i], config) for i in range(len(photos))]
    contradicted = clip_contradiction(found)
    return RefinedClip(frames, contradicted, config.weigh and contradicted is not None and contradicted > REFUSED)


def _refine(
    rendered: RGBDClip,
    repaired: RepairedClip,
    i: int,
    rgb: Tensor,
    photos: Reprojection,
    agreement: float,
    config: LoopConfig,
) -> RefinedFrame:
    disparity, confidence = repaired.disparity[i], repaired.confidence[i]
    depth, alpha = rendered.depth[i], rendered.alpha[i]
    aligned = False
    if config.align:
        disparity, aligned = align_disparity(disparity, depth, alpha, confidence)
    if config.weigh:
        confidence = confidence * render_confidence(rgb, rendered.rgb[i], photos.seen)
    if config.paste:
        rgb, confidence = paste(rgb, confidence, photos)
    if config.weigh:
        # the render over again can only hold the splats back where the photos move them on
        news = novelty(repaired.rgb[i], rendered.rgb[i])
        confidence = confidence * news if float(news.mean()) >= NEWS else torch.zeros_like(confidence)
    return RefinedFrame(rendered.cameras[i], rgb, disparity, confidence, agreement, aligned, depth, alpha)


def merge(frames: Sequence[RefinedFrame]) -> RefinedFrame:
    """One frame from several repairs of the same view: their mean by confidence, believed less where they differ."""
    first = frames[0]
    for other in frames[1:]:
        total = first.confidence + other.confidence
        share = torch.where(total > 0, other.confidence / total.clamp_min(1e-8), 0.5)
        disparity, aligned = first.disparity, first.aligned
        if first.aligned and other.aligned:
            both = (first.disparity > 0) & (other.disparity > 0)
            mean = torch.lerp(first.disparity, other.disparity, share)
            disparity = torch.where(both, mean, torch.maximum(first.disparity, other.disparity))
        elif other.aligned:
            disparity, aligned = other.disparity, True
        first = replace(
            first,
            rgb=torch.lerp(first.rgb, other.rgb, share),
            disparity=disparity,
            confidence=torch.maximum(first.confidence, other.confidence) * clip_confidence(first.rgb, other.rgb),
            agreement=(first.agreement * other.agreement) ** 0.5,
            aligned=aligned,
        )
    return first
