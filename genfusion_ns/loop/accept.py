"""Rounds are accepted on evidence: what the photos say before a round and after its frames have taught."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.loop.captured import CapturedViews, SeenViews
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.keeper import SplatKeeper
from genfusion_ns.loop.reproject import reproject
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.trajectories import interpolate, template_view, visiting_order
from genfusion_ns.losses import psnr
from genfusion_ns.raster.api import Render

log = logging.getLogger(__name__)

Outcome = Literal["open", "accepted", "lowered", "rolled back"]

SIDE = 320
"""Evidence is measured on images at most this wide or high, in pixels."""
MOST_VIEWS = 9
"""At most so many captured views make the path along which renders are compared."""
PER_GAP = 3
"""Poses on that path per gap between two views, one of the views included."""
FACTORS: dict[str, float] = {"open": 1.0, "accepted": 1.0, "lowered": 0.5, "rolled back": 0.0}
"""What an outcome leaves of the weights of a round's frames."""


def held_out(count: int, enough: int) -> list[int]:
    """Which of `count` captured views do not train while generated views do, so that they can judge: none below
    `enough`, one from there, two from twice as many; from the inside of the list, far from each other.

    Args:
        enough: 0 = never hold any out.
    """
    if enough < 1 or count < enough:
        return []
    return [count // 2] if count < 2 * enough else [count // 3, (2 * count) // 3]


def judge(before: float, after: float, tolerance: float) -> Outcome:
    """What becomes of a round, from the evidence before it and after its frames have taught, in dB.

    A loss of up to `tolerance` is accepted; up to twice as much costs the frames half of their weight; a larger one
    rolls the round back.
    """
    loss = before - after
    if loss <= tolerance:
        return "accepted"
    return "lowered" if loss <= 2.0 * tolerance else "rolled back"


def trust(outcomes: Sequence[str]) -> float:
    """Factor in (0, 1] on the weights of the next round's frames: a round that was lowered halves it, one that was
    rolled back quarters it, one that was accepted doubles it again."""
    factor = 1.0
    for outcome in outcomes:
        factor = min(1.0, factor * {"lowered": 0.5, "rolled back": 0.25, "accepted": 2.0}.get(outcome, 1.0))
    return factor


@torch.no_grad()
def evidence(
    render: Callable[[Camera], Render], captured: CapturedViews, held: CapturedViews | None, neighbours: int = 4
) -> float:
    """How well the splats agree with photos where these do not train them, in dB.

    With held-out photos: the renders' mean PSNR there. Without: the PSNR of renders along the path through the captured
    views against the photos warped there (`reproject`), all pixels that can be trusted together. At the captured views
    themselves those are all; splats that were merely fitted to the photos fail between them.
    """
    if held is not None and len(held.cameras):
        return _at_views(render, held)
    return _along_path(render, captured, neighbours)


def judge_last_round(
    render: Callable[[Camera], Render],
    captured: CapturedViews,
    state: LoopState,
    config: LoopConfig,
    splats: SplatKeeper | None = None,
    held: CapturedViews | None = None,
) -> float:
    """Settle the last round of `state`, if it is still open, and return the evidence for the splats as they are then.

    Rounds do it for the one before; for the last one it has to be called when the loop ends.
    """
    now = evidence(render, captured, held, config.neighbours)
    last = state.reports[-1] if state.reports else None
    if last is None or last.outcome != "open":
        return now
    before = now if last.before is None or not last.admitted else last.before
    outcome = judge(before, now, config.tolerance)
    state.settle(outcome, now, FACTORS[outcome])
    if outcome == "accepted":
        return now
    log.warning(
        "round %d of step %d is %s: agreement with the photos fell from %.2f to %.2f dB (tolerance %.2f).",
        *(last.round + 1, last.step, outcome, before, now, config.tolerance),
    )
    if outcome == "rolled back" and splats is not None:
        splats.restore()
        return before
    return now


def _at_views(render: Callable[[Camera], Render], views: CapturedViews) -> float:
    found = []
    for i, camera in enumerate(views.cameras):
        small = _limited(camera)
        photo = _shrunk(views.image(i), small.height, small.width)
        shown = render(small).color.clamp(0, 1)
        found.append(float(psnr(shown, photo.to(shown)).clamp_max(60.0)))
    return sum(found) / len(found)


def _along_path(render: Callable[[Camera], Render], captured: CapturedViews, neighbours: int) -> float:
    device = captured.cameras[0].w2c.device
    cameras = [camera.to("cpu") for camera in captured.cameras]
    seen = SeenViews(render, captured, SIDE)
    order = visiting_order(cameras)[:MOST_VIEWS]
    stops = [cameras[i] for i in order]
    error = weight = 0.0
    for camera in interpolate(stops, PER_GAP * (len(stops) - 1) + 1, _limited(template_view(cameras))):
        camera = camera.to(device)
        shown = render(camera)
        photos = reproject(camera, shown.depth, shown.alpha, seen.near(camera, neighbours), seen.unit)
        sure = photos.trust * (photos.trust > 0.5)
        error += float(((shown.color.clamp(0, 1) - photos.rgb).square().mean(-1, keepdim=True) * sure).sum())
        weight += float(sure.sum())
    return float(-10.0 * torch.log10(torch.tensor(max(error / max(weight, 1e-6), 1e-6))))


def _limited(camera: Camera) -> Camera:
    scale = min(1.0, SIDE / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))


def _shrunk(photo: Tensor, height: int, width: int) -> Tensor:
    """[H, W, 3] -> [height, width, 3], by areas."""
    return F.interpolate(photo.permute(2, 0, 1)[None], (height, width), mode="area")[0].permute(1, 2, 0)
