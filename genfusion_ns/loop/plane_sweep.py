"""Photos seen from elsewhere without believing the splats' surface: depths around it are tried, and photos vote.

A surface fitted to few photos lies at a wrong depth more often than not, and photos warped through it land beside
their place. At the right depth they agree with one another, and roughly with the rendering (plane sweep stereo:
Collins 1996; costs turned into shares, whose mean colour is least wrong: Kendall et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import Camera, unproject
from genfusion_ns.loop.captured import SeenView
from genfusion_ns.loop.reproject import Reprojection, closeness, look_up, parallax

PLANES = 33
"""Depths tried at each pixel; odd, so that the rendered one is among them."""
SPAN = 0.75
"""Disparities from (1 - SPAN) to (1 + SPAN) times the rendered one are tried."""
BASE_WEIGHT = 0.05
"""Weight of a photo taken from a quite different direction; one from almost the same counts as 1 more."""
MOST_COST = 0.25
"""Difference of colours beyond which more of it says no more."""
ALONE = 0.1
"""Cost of a depth at which one photo only can be asked: as of photos that differ so much."""
ANCHOR = 0.3
"""Weight of the difference from the rendering beside that among the photos."""
FAR_OFF = 0.05
"""Cost of the nearest and farthest depth beside the rendered one."""
SHARPNESS = 0.01
"""Difference in cost that makes a depth e times less likely."""
AGREEMENT = 0.05
"""Cost at which photos are believed e times less."""
MAX_SIDE = 320
"""Depths are searched for at no more pixels a side: twice of what the bundled repairer learnt from."""


@dataclass(frozen=True)
class Match:
    """What photos show of a view where they agree best."""

    rgb: Tensor
    """[H, W, 3] in [0, 1]; the rendering where no photo reaches."""
    agreement: Tensor
    """[H, W, 1] in [0, 1]: how well they agree, 0 where fewer than two photos reach."""


@dataclass(frozen=True)
class _Ask:
    """What photos show at some points."""

    rgb: Tensor
    """[..., 3] their mean colour."""
    deviation: Tensor
    """[..., 1] of their colours."""
    count: Tensor
    """[..., 1] how many have the point."""


def plane_sweep(camera: Camera, rgb: Tensor, depth: Tensor, views: Sequence[SeenView]) -> Match:
    """Each pixel's colour in the photos, averaged over depths by how well the photos agree there.

    Depths are searched for on a grid of at most `MAX_SIDE` pixels a side; larger views are looked up at the mean depth.

    Args:
        rgb: [H, W, 3] in [0, 1], the rendering.
        depth: [H, W, 1] its depth; 0 = hole, where depths around the median are tried.
        views: captured views on the same device; of their surfaces nothing is used.
    """
    if max(camera.height, camera.width) <= MAX_SIDE:
        return _sweep(camera, rgb, depth, views)[0]
    small = camera.limited(MAX_SIDE)
    size = small.height, small.width
    found, disparity = _sweep(small, _resized(rgb, size), _resized(depth, size, "nearest-exact"), views)
    agreement, disparity = (_resized(values, (camera.height, camera.width)) for values in (found.agreement, disparity))
    asked = _ask(unproject(1 / disparity, camera), camera, views)
    return Match(torch.where(asked.count > 0.5, asked.rgb, rgb), agreement)


def _sweep(camera: Camera, rgb: Tensor, depth: Tensor, views: Sequence[SeenView]) -> tuple[Match, Tensor]:
    """As `plane_sweep`, and the disparity [H, W, 1] where the photos agree."""
    hit = depth > 1e-6
    around = torch.where(hit, depth, depth[hit].median() if bool(hit.any()) else torch.ones_like(depth))
    shifts = torch.linspace(-SPAN, SPAN, PLANES).to(depth)[:, None, None, None]
    rays = unproject(torch.ones_like(depth), camera) - camera.position
    asked = _ask(camera.position + rays * (around / (1 + shifts)), camera, views)
    cost = _cost(asked, (asked.rgb - rgb).abs().mean(-1, keepdim=True)) + FAR_OFF * shifts.abs() / SPAN
    share = torch.softmax(-cost / SHARPNESS, dim=0)
    shown, paired = ((share * (asked.count > least)).sum(0) for least in (0.5, 1.5))
    agreement = paired * torch.exp(-(share * cost).sum(0) / AGREEMENT)
    match = Match(torch.where(shown > 0.5, (share * asked.rgb).sum(0), rgb), agreement)
    return match, (share * (1 + shifts)).sum(0) / around


def _ask(points: Tensor, camera: Camera, views: Sequence[SeenView]) -> _Ask:
    """World points [..., H, W, 3] that `camera` shows, looked up in all photos; those taken from directions alike count
    more."""
    flat = points.reshape(-1, *points.shape[-2:])
    total, colour, square, count = (torch.zeros(*flat.shape[:2], c).to(flat) for c in (1, 3, 3, 1))
    for view in views:
        photo, reached = look_up(flat, view)
        weight = reached * (closeness(parallax(flat, camera, view.camera)) + BASE_WEIGHT)
        total, colour, square = total + weight, colour + weight * photo, square + weight * photo.square()
        count = count + reached
    mean = colour / total.clamp_min(1e-6)
    variance = (square / total.clamp_min(1e-6) - mean.square()).clamp_min(0).mean(-1, keepdim=True)
    return _Ask(*(values.reshape(*points.shape[:-1], -1) for values in (mean, variance.sqrt(), count)))


def _cost(asked: _Ask, difference: Tensor) -> Tensor:
    """[D, H, W, 1] what speaks against each depth, averaged over the pixels around; `difference` is that from the
    rendering."""
    among = torch.where(asked.count > 1.5, asked.deviation.clamp_max(MOST_COST), ALONE)
    cost = among + ANCHOR * difference.clamp_max(MOST_COST)
    cost = torch.where(asked.count > 0.5, cost, MOST_COST)[..., 0][:, None]
    for _ in range(2):
        cost = F.avg_pool2d(cost, 3, 1, 1, count_include_pad=False)
    return cost[:, 0, ..., None]


def _resized(values: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """[H, W, C] on another grid [h, w]."""
    antialias = {"antialias": True} if mode == "bilinear" else {}
    return F.interpolate(values.permute(2, 0, 1)[None], size, mode=mode, **antialias)[0].permute(1, 2, 0)


def stacked(photos: Sequence[Reprojection], matches: Sequence[Match]) -> Tensor:
    """[T, H, W, 10] what photos show of T views, as the video model is given it: colour, trust, seen and near through
    the splats' surface; colour and agreement where photos agree."""
    pairs = zip(photos, matches, strict=True)
    return torch.stack([torch.cat([p.rgb, p.trust, p.seen, p.near, m.rgb, m.agreement], dim=-1) for p, m in pairs])
